"""Counts code lines (no blanks, comments, docstrings) of the package, the rules and the workflow scripts.

    python -m tests.code_lines [OLD [NEW]]

prints both commits side by side, 58aa2f7 and HEAD by default, ``families/`` apart. A file counts in the old commit
where its heir lies in the new one, by git's renames.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize

MOVED = "f900970"
"""Between the two: modules have their sub-packages, and are not rewritten yet, so that git finds them."""
FOLDERS = ("sam3_runtime/", "rules/", "workflow_scripts/")
SILENT = {getattr(tokenize, name) for name in ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")}


def code_lines(source: str) -> int:
    """Return the number of lines with code. Strings that stand alone are docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a Snakefile; its docstring is a few lines
        return len(lines)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def files(commit: str) -> dict[str, int]:
    """Return the code lines of each file of ``commit``."""
    names = git("ls-tree", "-r", "--name-only", commit, *FOLDERS).splitlines()
    return {name: code_lines(git("show", f"{commit}:{name}")) for name in names if name.endswith((".py", ".smk"))}


def heirs(old: str, new: str) -> dict[str, str]:
    """Return the path in ``new`` of each file of ``old`` that git finds there."""
    status = git("diff", "-M30%", "-l5000", "--name-status", old, new, "--", *FOLDERS).splitlines()
    rows = [line.split("\t") for line in status]
    kept = {name: name for name in git("ls-tree", "-r", "--name-only", old, *FOLDERS).splitlines()}
    return kept | {row[1]: row[-1] for row in rows if row[0].startswith("R")}


def main(old: str = "58aa2f7", new: str = "HEAD") -> None:
    """Print the sums."""
    before, after = files(old), files(new)
    moved, later = heirs(old, MOVED), heirs(MOVED, new)
    heir = {name: later.get(moved[name], moved[name]) for name in before}
    for title, family in (("families/", True), ("all else", False)):
        then = sum(count for name, count in before.items() if ("/families/" in heir[name]) == family)
        now = {name: count for name, count in after.items() if ("/families/" in name) == family}
        inherited = sum(count for name, count in now.items() if name in heir.values())
        print(f"{title:10} {then} -> {sum(now.values())} ({inherited} in the same files)")


if __name__ == "__main__":
    main(*sys.argv[1:])
