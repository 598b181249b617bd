"""Checkpoints of any family: their files, which of them holds each weight, and whether they are still the lock's.

Only safetensors are read. Nothing here needs PyTorch, which takes seconds to import, or knows a model; ``ways`` is what
a message says about how a checkpoint can be had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.records.checkpoint_files import INDEX, WEIGHTS, checkpoint_digest, shards_of
from sam3_runtime.records.records import CheckpointLock

_HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint's files: the parsed ``config.json`` and which file holds each weight."""

    path: Path
    config: Mapping[str, Any]
    weights: Mapping[str, Path]

    @property
    def shards(self) -> tuple[Path, ...]:
        return tuple(sorted(set(self.weights.values())))

    def digest(self) -> str:
        weights = {shard.name: sha256_of(shard) for shard in self.shards}
        return checkpoint_digest(sha256_of(self.path / "config.json"), weights)

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a file is touched: what is worth hashing again."""
        stats = [(file, file.stat()) for file in (self.path / "config.json", *self.shards)]
        return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)


def download(name: str, revision: str | None, ways: str) -> tuple[Path, str]:
    """A hub model's files: their folder and commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{name} (revision {revision or 'main'})"
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except GatedRepoError:
        raise CheckpointError(f"{where} is gated: your account has no access to it", ways) from None
    except RevisionNotFoundError:
        raise CheckpointError(
            f"{name} has no revision {revision!r}", "set model.revision to main or a commit"
        ) from None
    except RepositoryNotFoundError:
        missing = f"{name!r} is neither a folder here nor a model that the hub shows you"
        raise CheckpointError(missing, ways) from None
    except Exception as error:  # what the hub's client raises when offline differs between its versions
        first = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}"
        raise CheckpointError(f"{where} cannot be had from the hub ({reason})", ways) from error
    return folder, folder.name


def read_config(path: Path, ways: str) -> dict[str, Any]:
    """The content of a checkpoint's ``config.json``, empty where that is no object."""
    config_file = path / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{path} has no config.json", ways)
    try:
        config = json.loads(config_file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{config_file} is no JSON: {error}", "copy the checkpoint again") from None
    return config if isinstance(config, dict) else {}


def index_weights(path: Path, ways: str) -> dict[str, Path]:
    """Which file holds each weight; opens every file's header, so that a truncated one is noticed."""
    if (path / INDEX).is_file():
        names = shards_of(path)
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise CheckpointError(f"{path / INDEX} names {', '.join(missing)}, missing", "copy the checkpoint again")
    elif (path / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        raise CheckpointError(*_no_weights(path, ways))
    weights: dict[str, Path] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{path / INDEX} names {name!r}, outside the folder", "copy the checkpoint again")
        try:
            with safe_open(path / name, framework="numpy") as file:
                weights |= dict.fromkeys(file.keys(), path / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path / name} is damaged: {error}", "copy or download it again") from None
    return weights


def _no_weights(path: Path, ways: str) -> tuple[str, str]:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    if pickles:
        hint = "pickles can run code when they are opened; convert them with transformers' save_pretrained"
        return f"{path} has {', '.join(pickles)} but no {WEIGHTS}: only safetensors are read", hint
    return f"{path} has neither {WEIGHTS} nor {INDEX}", ways


VERIFIED: dict[str, tuple[tuple[str, int, int], ...]] = {}
"""The stamp of the files that this process has hashed, by their digest."""


def verify(folder: CheckpointFolder, lock: CheckpointLock) -> None:
    """:class:`CheckpointError` where the files are no longer the lock's. Those that this process has hashed are not
    hashed again while they stay as they are."""
    if VERIFIED.get(lock.digest) == folder.stamp():
        return
    if folder.digest() != lock.digest:
        raise CheckpointError(
            f"weights changed since checkpoint.lock was written: {folder.path} no longer has digest {lock.digest[:12]}",
            "use another work folder (snakemake --directory ...), or delete checkpoint.lock to build this one anew",
        )
    VERIFIED[lock.digest] = folder.stamp()
