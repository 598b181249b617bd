"""The engine cache: built once for what it depends on, whole or absent, freed when nothing links it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.files import sha256_of, this_process
from sam3_runtime.jobs.engine_cache import Entry, UserState, entries, get_or_build, register_links
from sam3_runtime.records.records import EngineRecord, Sizes
from tests.engine_records import engine_record

Build = Callable[[Path], EngineRecord]


class Builder:
    """Writes an engine of the given content and counts how often it was asked to."""

    def __init__(self, content: bytes = b"engine") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, target: Path) -> EngineRecord:
        self.calls += 1
        target.write_bytes(self.content)
        return engine_record("decoder", sha256=sha256_of(target), sizes=Sizes(file=len(self.content)))


@pytest.fixture(autouse=True)
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


ENGINE = Path("engines/store/b8_r672/decoder_q50.engine")
CACHE = Path("engines/cache")


def test_an_engine_is_built_once_and_linked_again(work_folder: Path) -> None:
    builder = Builder()
    record = get_or_build(ENGINE, "a" * 32, CACHE, builder)
    ENGINE.unlink()
    assert get_or_build(ENGINE, "a" * 32, CACHE, builder) == record
    assert builder.calls == 1
    assert ENGINE.is_symlink()
    assert ENGINE.read_bytes() == b"engine"
    assert EngineRecord.read(ENGINE.with_name("decoder_q50.engine.json")) == record
    assert Entry(CACHE / ("a" * 32)).users() == {work_folder: UserState.USES}


def test_a_failed_build_loses_nothing() -> None:
    get_or_build(ENGINE, "a" * 32, CACHE, Builder())
    ENGINE.unlink()  # as Snakemake does before a job

    def fail(target: Path) -> EngineRecord:
        target.write_bytes(b"half")
        raise BuildError("out of memory")

    with pytest.raises(BuildError):
        get_or_build(ENGINE, "b" * 32, CACHE, fail)
    assert not ENGINE.exists()
    assert [entry.folder.name for entry in entries(CACHE)] == ["a" * 32]
    assert not list(CACHE.glob("*.part"))
    again = Builder()
    get_or_build(ENGINE, "a" * 32, CACHE, again)
    assert again.calls == 0


def test_a_damaged_engine_is_built_again() -> None:
    get_or_build(ENGINE, "a" * 32, CACHE, Builder())
    ENGINE.resolve().write_bytes(b"eng")
    again = Builder()
    get_or_build(ENGINE, "a" * 32, CACHE, again)
    assert again.calls == 1
    assert ENGINE.read_bytes() == b"engine"


def test_a_shared_cache_knows_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work_folder: Path) -> None:
    shared = tmp_path / "shared"
    get_or_build(ENGINE, "a" * 32, shared, Builder())
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    again = Builder()
    get_or_build(ENGINE, "a" * 32, shared, again)
    assert again.calls == 0
    entry = Entry(shared / ("a" * 32))
    assert entry.users() == dict.fromkeys((work_folder, other), UserState.USES)
    (work_folder / ENGINE).unlink()
    assert entry.users() == {work_folder: UserState.LEFT, other: UserState.USES}


def test_a_moved_work_folder_is_missed_until_it_is_heard_of_again(tmp_path: Path, work_folder: Path) -> None:
    shared = tmp_path / "shared"
    get_or_build(ENGINE, "a" * 32, shared, Builder())
    entry = Entry(shared / ("a" * 32))
    moved = work_folder.rename(tmp_path / "moved")
    assert entry.users() == {work_folder: UserState.GONE}
    work_folder.mkdir()  # another folder in its place says nothing about it
    assert entry.users() == {work_folder: UserState.GONE}
    register_links(moved)
    assert entry.users() == {moved: UserState.USES}


def test_an_engine_has_the_time_stamp_of_its_record() -> None:
    record = get_or_build(ENGINE, "a" * 32, CACHE, Builder())
    assert ENGINE.stat().st_mtime == record.modified


def test_whoever_builds_an_engine_holds_its_entry() -> None:
    entry = Entry(CACHE / ("a" * 32))

    def build(target: Path) -> EngineRecord:
        with Entry(entry.folder).held(timeout=0) as held:
            assert not held
        with Entry(CACHE / ("b" * 32)).held(timeout=0) as held:
            assert held
        return Builder()(target)

    get_or_build(ENGINE, "a" * 32, CACHE, build)
    with entry.held(timeout=0) as held:
        assert held


def test_a_build_sweeps_its_own_leavings_alone() -> None:
    """Parts of other keys belong to builds that may run, here or on another machine."""
    gone = replace(this_process(), pid=2**22 + 1)
    abandoned, elsewhere = (CACHE / f".{'a' * 32}.{owner}.part" for owner in (gone, replace(gone, host="other")))
    of_another_key = CACHE / f".{'b' * 32}.{gone}.part"
    for part in (abandoned, elsewhere, of_another_key):
        part.mkdir(parents=True)
    get_or_build(ENGINE, "a" * 32, CACHE, Builder())
    assert [part.exists() for part in (abandoned, elsewhere, of_another_key)] == [False, True, True]


def test_a_cache_that_cannot_be_written_to_is_read(make_disk: Callable[[int], Path], work_folder: Path) -> None:
    shared = make_disk(100)
    get_or_build(ENGINE, "a" * 32, shared, Builder())
    before = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    ENGINE.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(shared)], check=True)
    assert get_or_build(ENGINE, "a" * 32, shared, Builder()) is not None
    assert ENGINE.resolve().is_relative_to(shared)
    # What it lacks is built into the work folder's own.
    other = Builder(b"another")
    get_or_build(ENGINE, "b" * 32, shared, other)
    assert ENGINE.resolve().is_relative_to(work_folder / "engines/cache")
    assert ENGINE.read_bytes() == b"another"
    register_links(work_folder)
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == before
