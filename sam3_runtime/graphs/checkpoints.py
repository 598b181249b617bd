"""Finds a checkpoint's files, of any family: which file contains each weight, and whether the files match the lock.

Only safetensors are read. PyTorch, which takes seconds to import, is not needed. ``hint`` is what an error message
suggests for getting a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.core.files import sha256_of, stamp_of
from sam3_runtime.core.wording import few
from sam3_runtime.records.checkpoint_files import INDEX, WEIGHTS, checkpoint_digest, shards_of
from sam3_runtime.records.records import CheckpointLock

_HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
_COPY_AGAIN = "copy the checkpoint again"


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint's files: the parsed ``config.json`` and which file contains each weight."""

    path: Path
    config: Mapping[str, Any]
    weights: Mapping[str, Path]

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files of weights, sorted."""
        return tuple(sorted(set(self.weights.values())))

    def digest(self) -> str:
        """Return the checkpoint's digest; files that keep their size and time stamp are hashed once per process."""
        return _digest(tuple((file, *stamp_of(file)) for file in (self.path / "config.json", *self.shards)))

    def verify(self, lock: CheckpointLock) -> None:
        """Raise :class:`CheckpointError` where the files are no longer those of ``lock``."""
        if self.digest() != lock.digest:
            raise CheckpointError(
                f"weights changed since checkpoint.lock was written: {self.path} no longer has digest "
                f"{lock.digest[:12]}",
                "use another work folder (snakemake --directory ...), or delete checkpoint.lock to build this one anew",
            )

    def read(self, shapes: Mapping[str, Sequence[int]], hint: str) -> dict[str, Any]:
        """Return the weights with the names and shapes in ``shapes``, as PyTorch tensors of their stored types.

        Raises :class:`CheckpointError` where some are missing, with ``hint``, or have other shapes.
        """
        missing = [name for name in shapes if name not in self.weights]
        if missing:
            raise CheckpointError(f"{self.path} lacks weights: {few(missing, 5)}", hint)
        found: dict[str, Any] = {}
        for shard in self.shards:
            with safe_open(shard, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in shapes if self.weights[name] == shard}
        for name, value in found.items():
            if tuple(value.shape) != tuple(shapes[name]):
                message = f"{name} has shape {tuple(value.shape)}, config.json expects {tuple(shapes[name])}"
                hint = "config.json and the weights are of different models: copy both again"
                raise CheckpointError(f"{self.path}: {message}", hint)
        return found


@cache
def _digest(stamped: tuple[tuple[Path, int, int], ...]) -> str:
    config, *shards = (file for file, _, _ in stamped)
    return checkpoint_digest(sha256_of(config), {shard.name: sha256_of(shard) for shard in shards})


def download(name: str, revision: str | None, hint: str) -> tuple[Path, str]:
    """Download a hub model's files; return their folder and commit.

    Raises :class:`CheckpointError` where the model or its revision does not exist, is gated, or the hub is unreachable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    model = f"{name} (revision {revision or 'main'})"
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except GatedRepoError:
        raise CheckpointError(f"{model} is gated: your account has no access to it", hint) from None
    except RevisionNotFoundError:
        where = "set model.revision to main or a commit"
        raise CheckpointError(f"{name} has no revision {revision!r}", where) from None
    except RepositoryNotFoundError:
        missing = f"{name!r} is neither a local folder nor a model on the hub that your account can read"
        raise CheckpointError(missing, hint) from None
    except Exception as error:  # what the hub's client raises when offline differs between its versions
        first = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}"
        raise CheckpointError(f"{model} cannot be downloaded from the hub ({reason})", hint) from error
    return folder, folder.name


def read_config(path: Path, hint: str) -> dict[str, Any]:
    """Return the content of a checkpoint's ``config.json``, empty where that is not an object.

    Raises :class:`CheckpointError` where it is missing or not JSON.
    """
    config_file = path / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{path} has no config.json", hint)
    try:
        config = json.loads(config_file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{config_file} is not JSON: {error}", _COPY_AGAIN) from None
    return config if isinstance(config, dict) else {}


def index_weights(path: Path, hint: str) -> dict[str, Path]:
    """Map each weight to its file, having opened every file's header.

    Raises :class:`CheckpointError` where files are missing, truncated, outside the folder or not safetensors.
    """
    index = path / INDEX
    if not (path / WEIGHTS).is_file() and not index.is_file():
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        if pickles:
            hint = "pickles can run code when they are opened; convert them with transformers' save_pretrained"
            raise CheckpointError(f"{path} has {', '.join(pickles)} but no {WEIGHTS}: only safetensors are read", hint)
        raise CheckpointError(f"{path} has neither {WEIGHTS} nor {INDEX}", hint)
    weights: dict[str, Path] = {}
    names = shards_of(path)
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names {', '.join(missing)}, missing", _COPY_AGAIN)
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, outside the folder", _COPY_AGAIN)
        try:
            with safe_open(path / name, framework="numpy") as file:
                weights |= dict.fromkeys(file.keys(), path / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path / name} is damaged: {error}", "copy or download it again") from None
    return weights
