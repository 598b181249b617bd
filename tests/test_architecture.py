"""What ARCHITECTURE says in numbers and names."""

from __future__ import annotations

import re
from pathlib import Path

from tests import architecture

PROJECT = Path(__file__).resolve().parent.parent
TEXT = (PROJECT / "ARCHITECTURE.md").read_text()


def test_the_worked_example_has_as_many_lines_as_it_says() -> None:
    rows = list(architecture.example_rows(TEXT))
    assert len(rows) > 5
    for row, files in rows:
        assert architecture.lines_of(files) == int(row[2]), f"{row[1]}: run python -m tests.architecture"
    folder = PROJECT / "sam3_runtime/families/classifier"
    named = {file for _, files in rows for file in files}
    assert named == {file for file in folder.rglob("*.py") if file.name != "__init__.py"}


def test_every_folder_is_there_and_is_told() -> None:
    table = TEXT.partition("## The folders")[2].partition("## Where each")[0]
    told = {
        name for first in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)/`", first)
    }
    told.discard("sam3_runtime")
    assert told == {path.parent.name for path in (PROJECT / "sam3_runtime").glob("*/__init__.py")}


def test_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:sam3_runtime|tests|workflow_scripts|rules)/[\w/.]+)`", TEXT))
    assert len(named) > 20
    assert sorted(name for name in named if not (PROJECT / name).exists()) == []


def test_sub_packages_import_downwards_only() -> None:
    graph = architecture.arrows()
    assert len(graph) > 15
    assert set(architecture.order(graph)) == set(graph)


def test_the_diagram_is_that_of_the_imports() -> None:
    shown = TEXT.partition(architecture.BEGIN)[2].partition(architecture.END)[0]
    assert shown == architecture.diagram(), "run python -m tests.architecture"
