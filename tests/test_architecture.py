"""What ARCHITECTURE says in numbers and names."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TEXT = (PROJECT / "ARCHITECTURE.md").read_text()


def test_the_worked_example_has_as_many_lines_as_it_says() -> None:
    folder = PROJECT / "sam3_runtime/families/classifier"
    rows = re.findall(r"^\| ((?:`[\w/]+\.py`(?:, )?)+) \| (\d+) \|", TEXT, re.MULTILINE)
    told = set()
    for names, lines in rows:
        files = [folder / name for name in re.findall(r"`([\w/]+\.py)`", names)]
        files = [file if file.is_file() else folder / "export" / file.name for file in files]
        told |= set(files)
        assert sum(len(file.read_text().splitlines()) for file in files) == int(lines), names
    assert told == {file for file in folder.rglob("*.py") if file.name != "__init__.py"}


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
