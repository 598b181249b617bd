"""Writes Markdown tables. Independent of models; reads no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
"""A row of a table: values by column name."""


def cell(value: Any) -> str:
    """Return the text of a value in one line; a dash for None."""
    return "–" if value is None else str(value).replace("\n", " ")


def marked(value: str, stable: bool) -> str:
    """Return ``value``, followed by ``(unstable)`` where the measurement is not ``stable``."""
    return value if stable else f"{value} (unstable)"


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Return the columns in which any row has a value, in order of first appearance."""
    return list(dict.fromkeys(column for row in rows for column, value in row.items() if value is not None))


def grid(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Return ``rows`` as a table of ``columns``, by default all of :func:`columns_of`."""
    chosen = columns_of(rows) if columns is None else columns
    return table(chosen, [[row.get(column) for column in chosen] for row in rows])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table whose columns also line up as plain text."""
    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join([f"| {lines[0]} |", f"|-{rule}-|", *(f"| {line} |" for line in lines[1:])])


def page(*parts: str | None) -> str:
    """Return the parts of a page as its text, separated by blank lines; empty parts are left out."""
    return "\n\n".join(filter(None, parts)) + "\n"
