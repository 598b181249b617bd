"""What is generated in ARCHITECTURE.md: the diagram of imports, and the lines of the worked example's files.

    python -m tests.architecture

writes both. An arrow is an import at run time; one that follows from two others is left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "sam3_runtime"
DOCUMENT = PROJECT / "ARCHITECTURE.md"
BEGIN, END = "<!-- imports (python -m tests.architecture) -->\n", "<!-- end -->"


def sub_package(path: Path) -> str:
    """Node of a module: its sub-package, with the layers of ``families`` and ``engines`` apart."""
    first, *rest = path.relative_to(PACKAGE).with_suffix("").parts
    if first == "engines" and rest[0] in ("building", "running"):
        return f"engines/{rest[0]}"
    if first == "families" and len(rest) > 1:
        if "export" in rest:
            return "families/*/export"
        return "families" if rest[1] in ("spec", "parts", "settings", "prompts") else "families/*"
    return first


def imported(tree: ast.Module) -> Iterator[Path]:
    """Modules of this package that ``tree`` imports, but for type checking."""
    typing = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if (
            id(node) in typing
            or not isinstance(node, ast.ImportFrom)
            or not (node.module or "").startswith("sam3_runtime.")
        ):
            continue
        base = PROJECT.joinpath(*str(node.module).split("."))
        for alias in node.names:
            named = (base / f"{alias.name}.py", base.with_suffix(".py"), base / "__init__.py")
            yield next(path for path in named if path.is_file())


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def arrows() -> dict[str, set[str]]:
    """Sub-packages that each sub-package imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.glob("*/**/*.py")):
        node = sub_package(path)
        others = {sub_package(other) for other in imported(ast.parse(path.read_text()))}
        found.setdefault(node, set()).update(others - {node})
    return found


def order(graph: Mapping[str, set[str]]) -> list[str]:
    """Nodes, each after all that it imports. Raises :class:`ValueError` naming the nodes of a cycle."""
    done: list[str] = []
    left = dict(graph)
    while left:
        ready = sorted(node for node, others in left.items() if others <= set(done))
        if not ready:
            raise ValueError(f"a cycle of imports among {sorted(left)}")
        done += ready
        left = {node: others for node, others in left.items() if node not in ready}
    return done


def diagram() -> str:
    """Mermaid source, without arrows that others imply."""
    graph = arrows()
    below: dict[str, set[str]] = {}
    lines = ["```mermaid", "flowchart TD"]
    for node in order(graph):
        below[node] = graph[node].union(*(below[other] for other in graph[node]))
    for node in reversed(list(below)):
        direct = graph[node] - set().union(*(below[other] for other in graph[node]))
        lines += [f'  {_name(node)}["{node}"] --> {_name(other)}["{other}"]' for other in sorted(direct)]
    return "\n".join([*lines, "```", ""])


def _name(node: str) -> str:
    return node.replace("/", "_").replace("*", "x")


def example_rows(text: str) -> Iterator[tuple[re.Match[str], list[Path]]]:
    """Yield each row of the table of the worked example, and the files that it names."""
    folder = PACKAGE / "families/classifier"
    for row in re.finditer(r"^\| ((?:`[\w/]+\.py`(?:, )?)+) \| (\d+) \|", text, re.MULTILINE):
        files = [folder / name for name in re.findall(r"`([\w/]+\.py)`", row[1])]
        yield row, [file if file.is_file() else folder / "export" / file.name for file in files]


def lines_of(files: list[Path]) -> int:
    """Return the number of lines of ``files``, comments and docstrings included."""
    return sum(len(file.read_text().splitlines()) for file in files)


def main() -> None:
    """Write ARCHITECTURE.md."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    text = before + BEGIN + diagram() + END + rest.partition(END)[2]
    for row, files in example_rows(text):
        text = text.replace(row[0], f"| {row[1]} | {lines_of(files)} |")
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
