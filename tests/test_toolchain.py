"""A work folder stays with one backend and one checkpoint, and its record stands where nothing can be probed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime import toolchain
from sam3_runtime.config import CheckpointLock, Toolchain
from sam3_runtime.errors import WorkFolderError
from sam3_runtime.variants import parse
from tests.records import DIMS

SETTINGS = parse("variants: [{}]").settings


def test_what_is_installed_is_found(tmp_path: Path) -> None:
    found = toolchain.resolve(SETTINGS, tmp_path)
    assert found.backend == "onnxruntime"
    assert found.version[0].isdigit()


def test_the_record_stands_where_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_DISTRIBUTIONS", {"onnxruntime": ("no-such-distribution",)})
    assert toolchain.resolve(SETTINGS, tmp_path).version == toolchain.NOT_INSTALLED
    Toolchain(backend="onnxruntime", version="1.20.0").write(tmp_path / "toolchain.json")
    assert toolchain.resolve(SETTINGS, tmp_path).version == "1.20.0"


def test_another_version_is_seen(tmp_path: Path) -> None:
    Toolchain(backend="onnxruntime", version="0.1").write(tmp_path / "toolchain.json")
    assert toolchain.resolve(SETTINGS, tmp_path).version != "0.1"


def test_another_backend_needs_another_folder(tmp_path: Path) -> None:
    Toolchain(backend="tensorrt", version="10.0").write(tmp_path / "toolchain.json")
    with pytest.raises(WorkFolderError, match=r"(?s)built with the backend tensorrt .*--directory FOLDER"):
        toolchain.resolve(SETTINGS, tmp_path)


def test_a_backend_of_another_version_is_refused(tmp_path: Path) -> None:
    settings = parse("backend: tensorrt\nvariants: [{}]").settings
    with pytest.raises(WorkFolderError, match="cannot be built by this version"):
        toolchain.resolve(settings, tmp_path)


@pytest.mark.parametrize(("checkpoint", "revision"), [("other/sam3", "main"), ("facebook/sam3", "v2")])
def test_another_checkpoint_needs_another_folder(tmp_path: Path, checkpoint: str, revision: str) -> None:
    locked = CheckpointLock(checkpoint=checkpoint, revision=revision, commit="c", digest="d", dims=DIMS.to_dict())
    locked.write(tmp_path / "checkpoint.lock")
    with pytest.raises(WorkFolderError, match="one folder holds one checkpoint"):
        toolchain.locked_dims(SETTINGS, tmp_path)


def test_the_locked_dimensions_are_those_of_the_plan(tmp_path: Path) -> None:
    assert toolchain.locked_dims(SETTINGS, tmp_path) is None
    locked = CheckpointLock(checkpoint="facebook/sam3", revision="main", commit="c", digest="d", dims=DIMS.to_dict())
    locked.write(tmp_path / "checkpoint.lock")
    assert toolchain.locked_dims(SETTINGS, tmp_path) == DIMS
