"""Facts about files are found once, again after a change, and are shared between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.remembered import Remembered


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


def test_a_fact_is_found_again_only_after_a_change(file: Path, tmp_path: Path) -> None:
    found: list[str] = []

    def find(path: Path) -> str:
        found.append(path.read_text())
        return found[-1]

    first = Remembered(tmp_path / "memory.json", version=1)
    assert [first.fact(file, find), first.fact(file, find)] == ["one", "one"]
    first.name("what", "value")
    first.save()
    second = Remembered(tmp_path / "memory.json", version=1)
    assert (second.fact(file, find), second.names) == ("one", {"what": "value"})
    assert found == ["one"]
    file.write_text("another")
    assert second.fact(file, find) == "another"
    assert Remembered(tmp_path / "memory.json", version=2).fact(file, find) == "another"
    assert found == ["one", "another", "another"]


@pytest.mark.parametrize("content", ["", "[]", "3", '{"files": 1, "named": 2}'])
def test_a_damaged_memory_is_empty(file: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "memory.json").write_text(content)
    memory = Remembered(tmp_path / "memory.json")
    assert memory.names == {}
    assert memory.fact(file, Path.read_text) == "one"
    memory.save()
    assert Remembered(tmp_path / "memory.json").fact(file, lambda _: pytest.fail("is found again")) == "one"


def test_a_missing_file_has_no_fact(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Remembered().fact(tmp_path / "none", Path.read_text)
