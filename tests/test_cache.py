"""The engine cache: built once for what it depends on, whole or absent, freed when nothing links it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sam3_runtime.builders.cache import Entry, entries, provide
from sam3_runtime.config import EngineRecord
from sam3_runtime.errors import BuildError
from sam3_runtime.files import sha256_of
from tests.records import engine_record

Build = Callable[[Path], EngineRecord]


class Builder:
    """Writes an engine of the given content and counts how often it was asked to."""

    def __init__(self, content: bytes = b"engine") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, target: Path) -> EngineRecord:
        self.calls += 1
        target.write_bytes(self.content)
        return engine_record("decoder", sha256=sha256_of(target))


@pytest.fixture(autouse=True)
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


ENGINE = Path("engines/store/b8_r672/decoder_q50.engine")
CACHE = Path("engines/cache")


def test_an_engine_is_built_once_and_linked_again(work_folder: Path) -> None:
    builder = Builder()
    record = provide(ENGINE, "a" * 32, CACHE, builder)
    ENGINE.unlink()
    assert provide(ENGINE, "a" * 32, CACHE, builder) == record
    assert builder.calls == 1
    assert ENGINE.is_symlink()
    assert ENGINE.read_bytes() == b"engine"
    assert EngineRecord.read(ENGINE.with_name("decoder_q50.engine.json")) == record
    assert Entry(CACHE / ("a" * 32)).users() == [work_folder]


def test_a_failed_build_loses_nothing() -> None:
    provide(ENGINE, "a" * 32, CACHE, Builder())
    ENGINE.unlink()  # as Snakemake does before a job

    def fail(target: Path) -> EngineRecord:
        target.write_bytes(b"half")
        raise BuildError("out of memory")

    with pytest.raises(BuildError):
        provide(ENGINE, "b" * 32, CACHE, fail)
    assert not ENGINE.exists()
    assert [entry.folder.name for entry in entries(CACHE)] == ["a" * 32]
    assert not list(CACHE.glob("*.part"))
    again = Builder()
    provide(ENGINE, "a" * 32, CACHE, again)
    assert again.calls == 0


def test_a_damaged_engine_is_built_again() -> None:
    provide(ENGINE, "a" * 32, CACHE, Builder())
    ENGINE.resolve().write_bytes(b"eng")
    again = Builder()
    provide(ENGINE, "a" * 32, CACHE, again)
    assert again.calls == 1
    assert ENGINE.read_bytes() == b"engine"


def test_a_shared_cache_knows_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work_folder: Path) -> None:
    shared = tmp_path / "shared"
    provide(ENGINE, "a" * 32, shared, Builder())
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    again = Builder()
    provide(ENGINE, "a" * 32, shared, again)
    assert again.calls == 0
    entry = Entry(shared / ("a" * 32))
    assert set(entry.users()) == {work_folder, other}
    (work_folder / ENGINE).unlink()
    assert entry.users() == [other]
