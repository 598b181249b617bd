"""An engine is compared with its record: by size and time where that is enough, else by digest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.records.integrity import check_engines, difference, stamp
from sam3_runtime.records.records import EngineRecord
from tests.engine_records import write_engine

TIME = 1_700_000_000


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "decoder.engine"


@pytest.fixture
def record(engine: Path) -> EngineRecord:
    made = write_engine(engine.parent, "decoder", b"an engine", modified=TIME)
    stamp(engine, made)
    return made


def test_size_and_time_are_enough_unless_asked(engine: Path, record: EngineRecord) -> None:
    engine.write_bytes(b"not alike")
    stamp(engine, record)
    assert difference(engine, record) is None
    assert difference(engine, record, "always") == "is not the engine that its record describes: their SHA-256 differ"


def test_a_copy_is_hashed_once_and_gets_its_time_back(engine: Path, record: EngineRecord) -> None:
    os.utime(engine, (1, 1))
    assert difference(engine, record) is None
    assert engine.stat().st_mtime == TIME
    engine.write_bytes(b"not alike")
    os.utime(engine, (1, 1))
    assert difference(engine, record, "never") is None
    assert "SHA-256 differ" in str(difference(engine, record))
    assert engine.stat().st_mtime == 1, "it is not marked as intact"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"an eng", "is cut off: it has 6 bytes instead of 9"),
        (b"an engine and more", "is another file: it has 18 bytes instead of 9"),
    ],
)
def test_another_size_needs_no_digest(engine: Path, record: EngineRecord, content: bytes, said: str) -> None:
    engine.write_bytes(content)
    assert difference(engine, record, "never") == said


def test_what_is_not_there(engine: Path, record: EngineRecord) -> None:
    engine.unlink()
    assert difference(engine, record) == "is missing"
    engine.symlink_to("gone")
    assert difference(engine, record) == "points to a file that is gone"
    with pytest.raises(
        RecordError, match=r"decoder\.engine points to a file that is gone\nHint: rebuild it: snakemake"
    ):
        check_engines(engine.parent, {"decoder": record})


def test_a_record_without_a_time_asks_for_none(engine: Path, record: EngineRecord) -> None:
    older = record.model_copy(update={"modified": None})
    os.utime(engine, (1, 1))
    stamp(engine, older)
    assert difference(engine, older) is None
    assert engine.stat().st_mtime == 1
