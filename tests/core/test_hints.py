"""Commands in hints are those that work in the folder where the user is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.hints import command_for, rebuild_hint, work_folder_of

ENGINE = "engines/b8_q50_r672/decoder.engine"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work/engines/b8_q50_r672").mkdir(parents=True)
    (tmp_path / "work/checkpoint.lock").touch()
    return tmp_path / "work"


def test_in_its_work_folder_a_file_has_the_shortest_command(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    assert work_folder_of(work / ENGINE) == work
    assert command_for(Path(ENGINE)) == command_for(work / ENGINE) == f"snakemake {ENGINE}"
    assert rebuild_hint(work / ENGINE) == f"rebuild it: snakemake {ENGINE}"


def test_from_elsewhere_the_command_names_the_work_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work.parent)
    assert command_for(work / ENGINE) == f"snakemake --directory work {ENGINE}"
    monkeypatch.chdir(work / "engines")
    assert command_for(work / ENGINE) == f"snakemake --directory .. {ENGINE}"


def test_a_copy_elsewhere_is_rebuilt_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "b8_q50_r672/decoder.engine"
    assert work_folder_of(path) is None
    assert command_for(path) == f"snakemake {path}"
    assert rebuild_hint(path) == f"rebuild it: snakemake {ENGINE}"


def test_a_link_is_made_where_it_stands(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where it leads: an engine in a shared cache has no command of its own."""
    monkeypatch.chdir(work)
    (work.parent / "cached.engine").touch()
    Path(ENGINE).symlink_to(work.parent / "cached.engine")
    assert command_for(Path(ENGINE)) == f"snakemake {ENGINE}"
