"""Loading a checkpoint's weights, and only those that a part needs.

Those of ``random`` are each drawn from a generator seeded by the weight's own name, so that a part loaded alone has the
weights that it has in the whole model. This module does not know what the parts compute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model
from transformers.initialization import no_init_weights

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.families.sam3.export.checkpoint import RANDOM, RANDOM_SEED, folder_of
from sam3_runtime.records.records import CheckpointLock

_VIDEO_PREFIX = "detector_model."
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


def load_config(lock: CheckpointLock, resolution: int | None = None) -> Any:
    """The detector's ``Sam3Config``; ``resolution`` in pixels goes in before anything is constructed from it."""
    if lock.checkpoint == RANDOM:
        config = Sam3Config()
    else:
        raw = folder_of(lock).config
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


def _read_weights(lock: CheckpointLock, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    folder = folder_of(lock)
    folder.verify(lock)
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
