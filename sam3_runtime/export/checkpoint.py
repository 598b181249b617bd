"""Checkpoints: where the weights are, what they are (the lock), and loading only those that a part needs.

A checkpoint is a hub name (``facebook/sam3``), a local folder, or ``random``: the full-size architecture with seeded
weights, each drawn from a generator seeded by the weight's own name, so that a part loaded alone has the weights that
it has in the whole model. Only safetensors are read. This module does not know what the parts compute.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model
from transformers.initialization import no_init_weights

from sam3_runtime.config import CheckpointLock
from sam3_runtime.contract import ModelDims
from sam3_runtime.errors import CheckpointError
from sam3_runtime.export.tokenizer import small_tokenizer_json
from sam3_runtime.files import digest_of, sha256_of, write_atomically

RANDOM = "random"
RANDOM_SEED = 3
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
_VIDEO_PREFIX = "detector_model."
_INDEX = "model.safetensors.index.json"
_HINT_WAYS = (
    "to use facebook/sam3, accept its licence on https://huggingface.co/facebook/sam3 and run `hf auth login`; "
    "or set model.checkpoint to a local folder with config.json and model.safetensors; "
    "or try everything without weights: `make demo`"
)
# Standard deviations of embeddings in `random`; matrices are scaled by fan-in instead. Queries must differ, or all of
# them would find the same object.
_EMBEDDING_STD = {
    "query_embed.weight": 2.0,
    "reference_points.weight": 2.0,
    "presence_token.weight": 1.0,
    "label_embed.weight": 1.0,
    "cls_embed.weight": 1.0,
    "token_embedding.weight": 1.0,
    "position_embedding.weight": 0.1,
    "position_embeddings": 0.1,
}


@dataclass(frozen=True)
class _Folder:
    """A checkpoint's files: the parsed ``config.json`` and which file holds each weight."""

    path: Path
    config: Mapping[str, Any]
    weights: Mapping[str, Path]

    @property
    def shards(self) -> tuple[Path, ...]:
        return tuple(sorted(set(self.weights.values())))

    def digest(self) -> str:
        weights = {shard.name: sha256_of(shard) for shard in self.shards}
        return digest_of({"config": sha256_of(self.path / "config.json"), "weights": weights})

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


def load_config(lock: CheckpointLock, resolution: int | None = None) -> Any:
    """The detector's ``Sam3Config``; ``resolution`` in pixels goes in before anything is constructed from it."""
    if lock.checkpoint == RANDOM:
        config = Sam3Config()
    else:
        raw = _folder_of(lock).config
        config = Sam3Config.from_dict(dict(raw.get("detector_config") or raw))
    if resolution is not None:
        config.vision_config.backbone_config.image_size = resolution
    return config


def load_module(lock: CheckpointLock, prefix: str, construct: Callable[[], nn.Module]) -> Any:
    """Construct one sub-module of ``Sam3Model`` and give it its weights, in float32 and eval mode.

    ``prefix`` is its place in ``Sam3Model`` (``vision_encoder``; empty for the whole). Nothing else is read or
    allocated. Raises :class:`CheckpointError` when weights are missing or are no longer those of the lock.
    """
    with no_init_weights():
        module = construct()
    dotted = f"{prefix}." if prefix else ""
    names = {f"{dotted}{name}": (name, tuple(value.shape)) for name, value in module.state_dict().items()}
    shapes = {full: shape for full, (_, shape) in names.items()}
    weights = _random_weights(shapes) if lock.checkpoint == RANDOM else _read_weights(lock, shapes)
    module.load_state_dict({names[full][0]: weights[full] for full in names}, assign=True)
    return module.eval().requires_grad_(False)


def load_model(lock: CheckpointLock, resolution: int) -> Any:
    """The whole ``Sam3Model`` at ``resolution`` pixels: the reference, float32, eval mode."""
    config = load_config(lock, resolution)
    return load_module(lock, "", lambda: Sam3Model(config))


def tokenizer_folder(lock: CheckpointLock) -> Path | None:
    """The folder that holds the checkpoint's ``tokenizer.json``; None for ``random``."""
    if lock.checkpoint == RANDOM:
        return None
    folder = _folder_of(lock).path
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json", "copy the one of facebook/sam3 there: prompts cannot be read without it"
        )
    return folder


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


def _folder_of(lock: CheckpointLock) -> _Folder:
    if lock.commit is not None:
        path = Path(lock.checkpoint).expanduser()
        return _open_folder(path if path.is_dir() else _download(lock.checkpoint, lock.commit)[0])
    return _open_folder(_find(lock.checkpoint, None)[0])


def _open_folder(path: Path) -> _Folder:
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
    return _Folder(path, config, _index_weights(path))


def _index_weights(path: Path) -> dict[str, Path]:
    """Which file holds each weight; opens every file's header, so that a truncated one is noticed."""
    if (path / _INDEX).is_file():
        names = sorted(set(json.loads((path / _INDEX).read_bytes())["weight_map"].values()))
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise CheckpointError(f"{path / _INDEX} names {', '.join(missing)}, missing", "copy the checkpoint again")
    elif (path / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        raise CheckpointError(*_no_weights(path))
    weights: dict[str, Path] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{path / _INDEX} names {name!r}, outside the folder", "copy the checkpoint again")
        try:
            with safe_open(path / name, framework="pt") as file:
                weights |= dict.fromkeys(file.keys(), path / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path / name} is damaged: {error}", "copy or download it again") from None
    return weights


def _no_weights(path: Path) -> tuple[str, str]:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    if pickles:
        hint = "pickles can run code when they are opened; convert them with transformers' save_pretrained"
        return f"{path} has {', '.join(pickles)} but no model.safetensors: only safetensors are read", hint
    return f"{path} has neither model.safetensors nor {_INDEX}", _HINT_WAYS


# Weights ----------------------------------------------------------------------------------------------------------

_VERIFIED: dict[str, tuple[tuple[str, int, int], ...]] = {}


def _verify(folder: _Folder, lock: CheckpointLock) -> None:
    """Hash the files again unless this process has hashed them as they are."""
    if _VERIFIED.get(lock.digest) == folder.stamp():
        return
    if folder.digest() != lock.digest:
        raise CheckpointError(
            f"weights changed since checkpoint.lock was written: {folder.path} no longer has digest {lock.digest[:12]}",
            "use another work folder (snakemake --directory ...), or delete checkpoint.lock to build this one anew",
        )
    _VERIFIED[lock.digest] = folder.stamp()


def _read_weights(lock: CheckpointLock, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    folder = _folder_of(lock)
    _verify(folder, lock)
    video = any(name.startswith(_VIDEO_PREFIX) for name in folder.weights)
    stored = {f"{_VIDEO_PREFIX}{name}" if video else name: name for name in shapes}
    missing = [name for name in stored if name not in folder.weights]
    if missing:
        few = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CheckpointError(f"{folder.path} lacks weights of SAM3: {few}", "use a complete Sam3Model checkpoint")
    read: dict[str, Tensor] = {}
    for shard in sorted({folder.weights[name] for name in stored}):
        with safe_open(shard, framework="pt") as file:
            for name, plain in stored.items():
                if folder.weights[name] == shard:
                    read[plain] = file.get_tensor(name).float()
    wrong = [name for name, value in read.items() if tuple(value.shape) != shapes[name]]
    if wrong:
        message = (
            f"{folder.path}: {wrong[0]} has shape {tuple(read[wrong[0]].shape)}, config.json says {shapes[wrong[0]]}"
        )
        raise CheckpointError(message, "config.json and the weights are of different models: copy both again")
    return read


def _random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: _random_weight(name, shape) for name, shape in shapes.items()}


def _random_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of this name in ``random``: scaled so that activations neither vanish nor explode."""
    if len(shape) == 1 and name.endswith("weight"):
        return torch.ones(shape)
    seed = int.from_bytes(hashlib.sha256(f"{RANDOM_SEED}/{name}".encode()).digest()[:8], "little") >> 1
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) == 1:
        return drawn.mul_(0.1)
    for suffix, std in _EMBEDDING_STD.items():
        if name.endswith(suffix):
            return drawn.mul_(std)
    return drawn.mul_(drawn[0].numel() ** -0.5)
