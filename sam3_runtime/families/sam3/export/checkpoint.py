"""Finds checkpoints of SAM3 and describes them in a lock.

A checkpoint is a hub name (``facebook/sam3``), a local folder, or ``random``: the full-size architecture with seeded
weights. Only safetensors are read. PyTorch, which takes seconds to import, is not needed; ``weights.py`` loads.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.core.files import digest_of, write_atomically
from sam3_runtime.families.sam3.export.tokenizer import small_tokenizer_json
from sam3_runtime.families.sam3.parts import ModelDims
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.graphs.checkpoints import CheckpointFolder, download, index_weights, read_config
from sam3_runtime.records.records import CheckpointLock

RANDOM = "random"
RANDOM_SEED = 3
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HINT_WAYS = (
    "to use facebook/sam3, accept its licence on https://huggingface.co/facebook/sam3 and run `hf auth login`; "
    "or set model.checkpoint to a local folder with config.json and model.safetensors; "
    "or try everything without weights: `make demo`"
)


def lock(checkpoint: str, revision: str | None = None) -> CheckpointLock:
    """Find ``checkpoint`` (downloading it where it is a hub name) and describe its weights.

    ``revision`` is a branch, tag or commit, of hub checkpoints only. Raises :class:`CheckpointError` when the
    checkpoint is not found, or is not SAM3 in safetensors.
    """
    if checkpoint == RANDOM:
        from transformers import Sam3Config

        content = json.loads(Sam3Config().to_json_string())
        content.pop("transformers_version", None)
        dims = ModelDims.from_config(content).to_dict()
        digest = digest_of({"seed": RANDOM_SEED, "config": content})
        return CheckpointLock(checkpoint=RANDOM, revision=None, commit=None, digest=digest, dims=dims)
    path, commit = _find(checkpoint, revision)
    folder = _open_folder(path)
    dims = ModelDims.from_config(folder.config).to_dict()
    revision = revision if commit else None
    return CheckpointLock(checkpoint=checkpoint, revision=revision, commit=commit, digest=folder.digest(), dims=dims)


def tokenizer_folder(lock: CheckpointLock) -> Path | None:
    """Return the folder with the checkpoint's ``tokenizer.json``, which must be there; None for ``random``."""
    if lock.checkpoint == RANDOM:
        return None
    folder = folder_of(lock).path
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json", "copy that of facebook/sam3 there: prompts cannot be read without it"
        )
    return folder


def write_asset(lock: CheckpointLock, _name: str, output: Path) -> None:
    """Write the only asset, ``tokenizer.json``, to ``output``; for ``random`` a small one with ids below 512."""
    folder = tokenizer_folder(lock)
    write_atomically(output, small_tokenizer_json() if folder is None else (folder / "tokenizer.json").read_bytes())


# Where the files are ----------------------------------------------------------------------------------------------


def _find(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the checkpoint's folder and, where it comes from the hub, its commit."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path, None
    if not _HUB_NAME.fullmatch(checkpoint):
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {checkpoint!r} {what}", _HINT_WAYS)
    return download(checkpoint, revision, _HINT_WAYS)


def folder_of(lock: CheckpointLock) -> CheckpointFolder:
    """Return the locked checkpoint's files, after a download from the hub. Raises :class:`CheckpointError`."""
    if lock.commit is not None:
        path = Path(lock.checkpoint).expanduser()
        return _open_folder(path if path.is_dir() else download(lock.checkpoint, lock.commit, _HINT_WAYS)[0])
    return _open_folder(_find(lock.checkpoint, None)[0])


def _open_folder(path: Path) -> CheckpointFolder:
    config = read_config(path, _HINT_WAYS)
    if not SAM3.claims(config):
        kind = config.get("model_type")
        hint = "use facebook/sam3, or a checkpoint that transformers' Sam3Model.save_pretrained wrote"
        raise CheckpointError(f"{path / 'config.json'} is of model_type {kind!r}, not sam3 or sam3_video", hint)
    return CheckpointFolder(path, config, index_weights(path, _HINT_WAYS))
