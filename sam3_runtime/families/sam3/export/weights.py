"""Loads a checkpoint's weights, and only those that a part needs.

Each weight of ``random`` is drawn from a generator seeded by the weight's own name, so that a part has the same weights
alone as in the whole model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model
from transformers.initialization import no_init_weights

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
    """Return the detector's ``Sam3Config`` with ``resolution`` in pixels, for modules to be constructed from it."""
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

    ``prefix`` is its path in ``Sam3Model`` (``vision_encoder``; empty for the whole model). Nothing else is read or
    allocated. Raises :class:`CheckpointError` when weights are missing or are no longer those of the lock.
    """
    with no_init_weights():
        module = construct()
    dotted = f"{prefix}." if prefix else ""
    names = {f"{dotted}{name}": (name, tuple(value.shape)) for name, value in module.state_dict().items()}
    shapes = {full: shape for full, (_, shape) in names.items()}
    if lock.checkpoint == RANDOM:
        weights = {name: _random_weight(name, shape) for name, shape in shapes.items()}
    else:
        weights = _read_weights(lock, shapes)
    module.load_state_dict({names[full][0]: weights[full] for full in names}, assign=True)
    return module.eval().requires_grad_(False)


def load_model(lock: CheckpointLock, resolution: int) -> Any:
    """Return the whole ``Sam3Model`` at ``resolution`` pixels in float32 and eval mode, which is the reference."""
    config = load_config(lock, resolution)
    return load_module(lock, "", lambda: Sam3Model(config))


def _read_weights(lock: CheckpointLock, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    folder = folder_of(lock)
    folder.verify(lock)
    prefix = _VIDEO_PREFIX if any(name.startswith(_VIDEO_PREFIX) for name in folder.weights) else ""
    stored = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    read = folder.read(stored, "use a complete checkpoint of Sam3Model")
    return {name: read[f"{prefix}{name}"].float() for name in shapes}


def _random_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the weight of this name in ``random``, scaled so that activations neither vanish nor explode."""
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
