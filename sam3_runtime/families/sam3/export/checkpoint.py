"""Checkpoints: where their files are, and what they are (the lock).

A checkpoint is a hub name (``facebook/sam3``), a local folder, or ``random``: the full-size architecture with seeded
weights. Only safetensors are read. Nothing here needs PyTorch, which takes seconds to import; ``weights.py`` loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.core.files import digest_of, sha256_of, write_atomically
from sam3_runtime.families.sam3.export.tokenizer import small_tokenizer_json
from sam3_runtime.families.sam3.parts import ModelDims
from sam3_runtime.records.checkpoint_files import INDEX, WEIGHTS, checkpoint_digest, shards_of
from sam3_runtime.records.records import CheckpointLock

RANDOM = "random"
RANDOM_SEED = 3
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
_HINT_WAYS = (
    "to use facebook/sam3, accept its licence on https://huggingface.co/facebook/sam3 and run `hf auth login`; "
    "or set model.checkpoint to a local folder with config.json and model.safetensors; "
    "or try everything without weights: `make demo`"
)


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


def lock(checkpoint: str, revision: str | None = None) -> CheckpointLock:
    """Find ``checkpoint`` (downloading it where it is a hub name) and describe its weights.

    ``revision`` is a branch, tag or commit, of hub checkpoints only. Raises :class:`CheckpointError` when it cannot
    be had, or is no SAM3 checkpoint in safetensors.
    """
    if checkpoint == RANDOM:
        from transformers import Sam3Config

        content = json.loads(Sam3Config().to_json_string())
        content.pop("transformers_version", None)
        dims = ModelDims.from_config(content)
        digest = digest_of({"seed": RANDOM_SEED, "config": content})
        return CheckpointLock(checkpoint=RANDOM, revision=None, commit=None, digest=digest, dims=dims.to_dict())
    path, commit = _find(checkpoint, revision)
    folder = _open_folder(path)
    dims = ModelDims.from_config(folder.config)
    if commit is None:
        revision = None
    digest = folder.digest()
    _VERIFIED[digest] = folder.stamp()
    return CheckpointLock(checkpoint=checkpoint, revision=revision, commit=commit, digest=digest, dims=dims.to_dict())


def tokenizer_folder(lock: CheckpointLock) -> Path | None:
    """The folder that holds the checkpoint's ``tokenizer.json``; None for ``random``."""
    if lock.checkpoint == RANDOM:
        return None
    folder = folder_of(lock).path
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json", "copy the one of facebook/sam3 there: prompts cannot be read without it"
        )
    return folder


def write_asset(lock: CheckpointLock, _name: str, output: Path) -> None:
    """Write the only one, ``tokenizer.json``, to ``output``."""
    write_tokenizer(lock, output)


def write_tokenizer(lock: CheckpointLock, output: Path) -> None:
    """Write the checkpoint's ``tokenizer.json`` to ``output``; for ``random`` a small one with ids below 512."""
    folder = tokenizer_folder(lock)
    write_atomically(output, small_tokenizer_json() if folder is None else (folder / "tokenizer.json").read_bytes())


# Where the files are ----------------------------------------------------------------------------------------------


def _find(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
    """The checkpoint's folder and, where it comes from the hub, its commit."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path, None
    if not _HUB_NAME.fullmatch(checkpoint):
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {checkpoint!r} {what}", _HINT_WAYS)
    return _download(checkpoint, revision)


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{name} (revision {revision or 'main'})"
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except GatedRepoError:
        raise CheckpointError(f"{where} is gated: your account has no access to it", _HINT_WAYS) from None
    except RevisionNotFoundError:
        raise CheckpointError(
            f"{name} has no revision {revision!r}", "set model.revision to main or a commit"
        ) from None
    except RepositoryNotFoundError:
        missing = f"{name!r} is neither a folder here nor a model that the hub shows you"
        raise CheckpointError(missing, _HINT_WAYS) from None
    except Exception as error:  # what the hub's client raises when offline differs between its versions
        first = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}"
        raise CheckpointError(f"{where} cannot be had from the hub ({reason})", _HINT_WAYS) from error
    return folder, folder.name


def folder_of(lock: CheckpointLock) -> CheckpointFolder:
    """The locked checkpoint's files, downloaded where they are the hub's. Raises :class:`CheckpointError`."""
    if lock.commit is not None:
        path = Path(lock.checkpoint).expanduser()
        return _open_folder(path if path.is_dir() else _download(lock.checkpoint, lock.commit)[0])
    return _open_folder(_find(lock.checkpoint, None)[0])


def _open_folder(path: Path) -> CheckpointFolder:
    config_file = path / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{path} has no config.json", _HINT_WAYS)
    try:
        config = json.loads(config_file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{config_file} is no JSON: {error}", "copy the checkpoint again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ("sam3", "sam3_video"):
        hint = "use facebook/sam3, or a checkpoint that transformers' Sam3Model.save_pretrained wrote"
        raise CheckpointError(f"{config_file} is of model_type {kind!r}, not sam3 or sam3_video", hint)
    return CheckpointFolder(path, config, _index_weights(path))


def _index_weights(path: Path) -> dict[str, Path]:
    """Which file holds each weight; opens every file's header, so that a truncated one is noticed."""
    if (path / INDEX).is_file():
        names = shards_of(path)
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise CheckpointError(f"{path / INDEX} names {', '.join(missing)}, missing", "copy the checkpoint again")
    elif (path / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        raise CheckpointError(*_no_weights(path))
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


def _no_weights(path: Path) -> tuple[str, str]:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    if pickles:
        hint = "pickles can run code when they are opened; convert them with transformers' save_pretrained"
        return f"{path} has {', '.join(pickles)} but no {WEIGHTS}: only safetensors are read", hint
    return f"{path} has neither {WEIGHTS} nor {INDEX}", _HINT_WAYS


# What they are ----------------------------------------------------------------------------------------------------

_VERIFIED: dict[str, tuple[tuple[str, int, int], ...]] = {}


def verify(folder: CheckpointFolder, lock: CheckpointLock) -> None:
    """:class:`CheckpointError` where the files are no longer the lock's. Those that this process has hashed are not
    hashed again while they stay as they are."""
    if _VERIFIED.get(lock.digest) == folder.stamp():
        return
    if folder.digest() != lock.digest:
        raise CheckpointError(
            f"weights changed since checkpoint.lock was written: {folder.path} no longer has digest {lock.digest[:12]}",
            "use another work folder (snakemake --directory ...), or delete checkpoint.lock to build this one anew",
        )
    _VERIFIED[lock.digest] = folder.stamp()
