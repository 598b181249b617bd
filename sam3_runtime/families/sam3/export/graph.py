"""Constructs the PyTorch modules of SAM3's parts, with the inputs and outputs of ``parts.py``, from a checkpoint.

The modules are in ``vision.py``, ``text.py``, ``geometry.py`` and ``decoder.py``; ``graphs/export.py`` traces them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import CLIPTextModel
from transformers.models.sam3 import modeling_sam3 as sam3

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.sam3.export.decoder import Decoder
from sam3_runtime.families.sam3.export.geometry import GeometryEncoder
from sam3_runtime.families.sam3.export.islands import ISLANDS
from sam3_runtime.families.sam3.export.layers import AttentionForm
from sam3_runtime.families.sam3.export.text import TextEncoder
from sam3_runtime.families.sam3.export.vision import VisionEncoder
from sam3_runtime.families.sam3.export.weights import load_config, load_module
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.graphs.export import export_graph
from sam3_runtime.records.records import CheckpointLock

__all__ = ["ISLANDS", "TRACED", "VERSIONS", "Precision", "build_module", "export_part", "module_of"]

Precision = Literal["fp32", "fp16"]
TRACED = {"B": 2, "P": 3, "N": 2, "n": 5, "L": 7}
"""Sizes of the dynamic dimensions while tracing: different and not 1, so that the tracer neither confuses two of them
nor takes one for constant."""
VERSIONS = {"transformers": transformers.__version__}


def module_of(part: PartName, lock: CheckpointLock, axes: Mapping[str, int], settings: Mapping[str, Any]) -> nn.Module:
    """Return the module of ``part`` in float32 and eval mode.

    ``axes`` are the ``resolution`` in pixels and ``queries``, where the part depends on them; ``settings`` may have the
    form of ``attention``. Raises :class:`ExportError` for values that the checkpoint cannot have, and
    :class:`CheckpointError` when the weights cannot be read.
    """
    attention = settings.get("attention", "fusable")
    if attention not in ("fusable", "plain"):
        raise ExportError(f"attention is {attention!r}", "it is fusable or plain")
    _check_axes(lock, axes)
    return build_module(part, lock, **axes, attention=attention)


def export_part(
    part: PartName,
    lock: CheckpointLock,
    output: Path,
    *,
    resolution: int | None = None,
    queries: int | None = None,
    attention: AttentionForm = "fusable",
    precision: Precision = "fp32",
    islands: Collection[str] = tuple(ISLANDS),
) -> None:
    """Call :func:`export_graph` with each axis and setting by its name."""
    axes = {axis: value for axis, value in (("resolution", resolution), ("queries", queries)) if value is not None}
    export_graph(part, lock, output, axes=axes, precision=precision, islands=islands, attention=attention)


def build_module(
    part: PartName,
    lock: CheckpointLock,
    *,
    resolution: int | None = None,
    queries: int | None = None,
    attention: AttentionForm = "fusable",
) -> nn.Module:
    """Return the module of ``part``, with each axis and setting by its name and without checks."""
    config = load_config(lock, resolution)
    with torch.no_grad():
        return _BUILDERS[part](lock, config, resolution or 0, queries or 0, attention).eval().requires_grad_(False)


def _check_axes(lock: CheckpointLock, axes: Mapping[str, int]) -> None:
    dims, resolution, queries = lock.model_dims, axes.get("resolution"), axes.get("queries")
    if resolution is not None and (resolution % dims.patch or resolution <= 0):
        raise ExportError(
            f"resolution {resolution} is not a multiple of the patch of {dims.patch} pixels",
            f"use {max(1, round(resolution / dims.patch)) * dims.patch}",
        )
    if queries is not None and not 0 < queries <= dims.queries:
        raise ExportError(f"queries is {queries}", f"the checkpoint has {dims.queries}: use 1 to {dims.queries}")


# Parts ------------------------------------------------------------------------------------------------------------


def _vision(lock: CheckpointLock, config: Any, resolution: int, _queries: int, form: AttentionForm) -> nn.Module:
    source = load_module(lock, "vision_encoder", lambda: sam3.Sam3VisionModel(config.vision_config))
    return VisionEncoder(source, resolution, form)


def _text(lock: CheckpointLock, config: Any, _resolution: int, _queries: int, form: AttentionForm) -> nn.Module:
    source = load_module(lock, "text_encoder.text_model", lambda: CLIPTextModel(config.text_config))
    sizes = config.text_config.hidden_size, config.detr_encoder_config.hidden_size
    projection = load_module(lock, "text_projection", lambda: nn.Linear(*sizes))
    return TextEncoder(source, projection, form)


def _geometry(lock: CheckpointLock, config: Any, resolution: int, _queries: int, form: AttentionForm) -> nn.Module:
    source = load_module(lock, "geometry_encoder", lambda: sam3.Sam3GeometryEncoder(config.geometry_encoder_config))
    return GeometryEncoder(source, resolution, lock.model_dims.patch, form)


def _decoder(lock: CheckpointLock, config: Any, resolution: int, queries: int, form: AttentionForm) -> nn.Module:
    constructors: dict[str, Callable[[], nn.Module]] = {
        "detr_encoder": lambda: sam3.Sam3DetrEncoder(config.detr_encoder_config),
        "detr_decoder": lambda: sam3.Sam3DetrDecoder(config.detr_decoder_config),
        "mask_decoder": lambda: sam3.Sam3MaskDecoder(config.mask_decoder_config),
        "dot_product_scoring": lambda: sam3.Sam3DotProductScoring(config),
    }
    sources = {prefix: load_module(lock, prefix, construct) for prefix, construct in constructors.items()}
    return Decoder(sources, resolution, lock.model_dims.patch, queries, form)


_BUILDERS: dict[PartName, Callable[[CheckpointLock, Any, int, int, AttentionForm], nn.Module]] = {
    "vision-encoder": _vision,
    "text-encoder": _text,
    "geometry-encoder": _geometry,
    "decoder": _decoder,
}
