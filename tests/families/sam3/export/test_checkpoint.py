"""Locks, and the messages about checkpoints that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.families.sam3.export import checkpoint
from sam3_runtime.families.sam3.export.weights import load_config, load_model
from sam3_runtime.records.records import CheckpointLock


@pytest.fixture
def copy(demo_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_checkpoint, tmp_path / "copy"))


def test_lock_describes_the_weights(demo_lock: CheckpointLock, copy: Path) -> None:
    assert demo_lock.commit is None
    assert demo_lock.revision is None
    assert demo_lock.model_dims.window == 8
    assert checkpoint.lock(str(copy), "main").digest == demo_lock.digest, "a digest is of content, not of places"
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert checkpoint.lock(str(copy)).digest != demo_lock.digest


def test_tokenizers(demo_lock: CheckpointLock, demo_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint.write_asset(demo_lock, "tokenizer.json", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == (demo_checkpoint / "tokenizer.json").read_bytes()
    checkpoint.write_asset(checkpoint.lock("random"), "tokenizer.json", tmp_path / "b.json")
    vocabulary = json.loads((tmp_path / "b.json").read_bytes())["model"]["vocab"]
    assert max(vocabulary.values()) < 512


def test_changed_weights_are_refused(copy: Path) -> None:
    lock = checkpoint.lock(str(copy))
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights changed since[\s\S]*delete checkpoint.lock"):
        load_model(lock, 182)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _other_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _outside(folder: Path) -> None:
    (folder.parent / "x.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_config, "has no config.json"),
        (_other_model, "model_type 'bert'"),
        (_broken_config, "is not JSON"),
        (_no_weights, "has neither model.safetensors nor"),
        (_pickle, "pytorch_model.bin but no model.safetensors"),
        (_truncated, "is damaged"),
        (_missing_shard, "model-00002-of-00002.safetensors, missing"),
        (_outside, "outside the folder"),
    ],
)
def test_damaged_folders_are_explained(copy: Path, damage: Any, message: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.lock(str(copy))
    assert raised.value.hint


def test_missing_folder() -> None:
    with pytest.raises(CheckpointError, match="does not exist") as raised:
        checkpoint.lock("./nowhere")
    assert "make demo" in str(raised.value.hint)


def _hub_error(name: str) -> Exception:
    """One of the hub's errors, made without the HTTP response that its constructor wants."""
    from huggingface_hub import errors

    kind: type[Exception] = getattr(errors, name)
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "neither a local folder nor a model"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        (None, "cannot be downloaded from the hub"),
    ],
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, error: str | None, message: str) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise _hub_error(error) if error else OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.lock("facebook/sam3", "v9")
    assert raised.value.hint


def test_hub_checkpoints_are_locked_to_a_commit(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    snapshot = copy.rename(copy.with_name("0123abcd"))
    requested: list[Any] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        requested.append((name, revision))
        assert not any(pattern.endswith((".pt", ".bin")) for pattern in allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    lock = checkpoint.lock("facebook/sam3", "main")
    assert (lock.revision, lock.commit) == ("main", "0123abcd")
    load_config(lock, 182)
    assert requested == [("facebook/sam3", "main"), ("facebook/sam3", "0123abcd")]
