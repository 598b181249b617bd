"""What stops an engine before it is loaded."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from sam3_runtime.core.errors import EngineError, RecordError
from sam3_runtime.engines.running import EngineOptions, open_engine
from sam3_runtime.records.records import EngineRecord
from tests.fake_variant import write_fake_variant


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_fake_variant(tmp_path / "engines/b4_q20_r112")
    return tmp_path / "engines/b4_q20_r112"


def change_record(directory: Path, part: str, **changes: object) -> None:
    path = directory / f"{part}.engine.json"
    EngineRecord.read(path).model_copy(update=changes).write(path)


def test_opens_and_closes(directory: Path) -> None:
    with open_engine(directory, "decoder") as engine:
        assert [spec.name for spec in engine.inputs][:2] == ["fpn_feat_0", "fpn_feat_1"]
        assert engine.limit("P") == 4


def test_links_are_followed(directory: Path, tmp_path: Path) -> None:
    engine = directory / "decoder.engine"
    shutil.move(engine, tmp_path / "decoder_q20.engine")
    try:
        engine.symlink_to(os.path.relpath(tmp_path / "decoder_q20.engine", directory))
    except OSError:
        pytest.skip("no symbolic links here")
    open_engine(directory, "decoder").close()
    (tmp_path / "decoder_q20.engine").unlink()
    with pytest.raises(EngineError, match="points to a file that is gone"):
        open_engine(directory, "decoder")


def test_a_missing_engine_names_the_command(directory: Path) -> None:
    (directory / "decoder.engine").unlink()
    (directory.parent.parent / "checkpoint.lock").touch()
    message = r"is missing\nHint: rebuild it: snakemake --directory \S+ engines/b4_q20_r112/decoder\.engine"
    with pytest.raises(EngineError, match=message):
        open_engine(directory, "decoder")


def test_a_truncated_engine(directory: Path) -> None:
    path = directory / "decoder.engine"
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(EngineError, match=r"is cut off: it has 5 bytes instead of \d+\nHint: rebuild it"):
        open_engine(directory, "decoder")


def test_a_damaged_engine(directory: Path) -> None:
    path = directory / "decoder.engine"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match="not the engine that its record describes: their SHA-256 differ"):
        open_engine(directory, "decoder")
    open_engine(directory, "decoder", verify_digest=False).close()


def test_the_record_of_another_part(directory: Path) -> None:
    shutil.copyfile(directory / "text-encoder.engine.json", directory / "decoder.engine.json")
    with pytest.raises(RecordError, match="is the record of a text-encoder"):
        open_engine(directory, "decoder")


@pytest.mark.parametrize("content", ["", "{", '{"part": "decoder"}'])
def test_a_damaged_record(directory: Path, content: str) -> None:
    (directory / "decoder.engine.json").write_text(content)
    with pytest.raises(RecordError, match="is damaged or was written by another version"):
        open_engine(directory, "decoder")


def test_a_backend_that_this_version_does_not_run(directory: Path) -> None:
    change_record(directory, "decoder", backend="tensorrt")
    with pytest.raises(EngineError, match="needs TensorRT, which is not installed here"):
        open_engine(directory, "decoder")


def test_a_missing_library_names_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_record(directory, "decoder", backend="onnxruntime")
    monkeypatch.delitem(sys.modules, "sam3_runtime.engines.running.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="pip install onnxruntime"):
        open_engine(directory, "decoder", EngineOptions(threads=1))
