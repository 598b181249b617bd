"""A checkpoint's files: their digest, and the weights that are read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from sam3_runtime.core.errors import CheckpointError  # noqa: E402
from sam3_runtime.graphs import checkpoints  # noqa: E402
from sam3_runtime.graphs.checkpoints import CheckpointFolder, index_weights, read_config  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """Two shards."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "small"}))
    weights = {"a": torch.ones(2, 3, dtype=torch.float16), "b": torch.zeros(4)}
    for name, value in weights.items():
        save_file({name: value}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in weights}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return CheckpointFolder(tmp_path, read_config(tmp_path, "get one"), index_weights(tmp_path, "get one"))


def test_files_are_hashed_once_while_they_stay_as_they_are(folder: CheckpointFolder, monkeypatch: Any) -> None:
    hashed: list[str] = []
    original = checkpoints.sha256_of
    monkeypatch.setattr(checkpoints, "sha256_of", lambda path: hashed.append(path.name) or original(path))
    digest = folder.digest()
    assert folder.digest() == digest
    assert sorted(hashed) == ["a.safetensors", "b.safetensors", "config.json"]
    save_file({"b": torch.ones(4)}, folder.path / "b.safetensors")
    assert folder.digest() != digest


def test_weights_come_from_every_shard_in_their_own_types(folder: CheckpointFolder) -> None:
    read = folder.read({"b": (4,), "a": (2, 3)}, "get one")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in read.items()} == {
        "a": (torch.float16, (2, 3)),
        "b": (torch.float32, (4,)),
    }


def test_missing_weights_and_other_shapes_are_named(folder: CheckpointFolder) -> None:
    wanted = {f"w{index}": (1,) for index in range(7)}
    with pytest.raises(CheckpointError, match=r"lacks weights: w0, w1, w2, w3, w4 and 2 more\nHint: get one"):
        folder.read(wanted, "get one")
    with pytest.raises(CheckpointError, match=r"a has shape \(2, 3\), config\.json expects \(3, 2\)"):
        folder.read({"a": (3, 2)}, "get one")
