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


def main(old: str = "58aa2f7", new: str = "HEAD") -> None:
    """Print the sums."""
    before, after = files(old), files(new)
    status = git("diff", "-M30%", "-l5000", "--name-status", old, new, "--", *FOLDERS).splitlines()
    heirs = {parts[1]: parts[2] for parts in (line.split("\t") for line in status) if parts[0].startswith("R")}
    fresh = {line.split("\t")[1] for line in status if line.startswith("A")}

    def total(counts: dict[str, int], family: bool, heir: dict[str, str]) -> int:
        return sum(count for name, count in counts.items() if ("/families/" in heir.get(name, name)) == family)

    for title, family in (("families/", True), ("all else", False)):
        own = sum(after.get(name, 0) for name in fresh if ("/families/" in name) == family)
        print(f"{title:10} {total(before, family, heirs)} -> {total(after, family, {})}, of it in new files {own}")


if __name__ == "__main__":
    main(*sys.argv[1:])
