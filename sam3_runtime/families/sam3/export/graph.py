"""From a checkpoint to an ONNX file: constructs a part, traces it, tidies the graph, checks it, writes it.

Tracing runs no arithmetic, so that a full-size encoder needs little more memory than its weights; it is always in
float32. What a part computes is in ``vision.py``, ``text.py``, ``geometry.py`` and ``decoder.py``; how a traced graph
becomes a clean one is in ``cleanup.py``, and how that becomes a float16 one in ``typed.py`` and ``islands.py``. The
same checkpoint and the same versions give the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import torch
import transformers
from torch import Tensor, nn
from transformers import CLIPTextModel
from transformers.models.sam3 import modeling_sam3 as sam3

from sam3_runtime.core.errors import ExportError
from sam3_runtime.core.files import temporary_name
from sam3_runtime.families.sam3.contract import PARTS, Part, PartName, fixed_dims, resolve
from sam3_runtime.families.sam3.export.decoder import Decoder
from sam3_runtime.families.sam3.export.geometry import GeometryEncoder
from sam3_runtime.families.sam3.export.islands import ISLANDS, mark_islands
from sam3_runtime.families.sam3.export.layers import AttentionForm
from sam3_runtime.families.sam3.export.text import TextEncoder
from sam3_runtime.families.sam3.export.vision import VisionEncoder
from sam3_runtime.families.sam3.export.weights import load_config, load_module
from sam3_runtime.graphs.cleanup import check_file, point_to_data, set_interface, tidy
from sam3_runtime.graphs.typed import to_float16
from sam3_runtime.records.records import CheckpointLock

Precision = Literal["fp32", "fp16"]

# Sizes that the dynamic dimensions have while tracing: all different and none of them 1, so that the tracer can
# neither confuse two of them nor take one for constant.
_TRACED = {"B": 2, "P": 3, "N": 2, "n": 5, "L": 7}
_DTYPES = {"float": torch.float32, "float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


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
    """Write ``part`` of the checkpoint as ONNX (opset 17) to ``output``, and ``<output>.data`` where the contract
    says so.

    ``resolution`` in pixels and ``queries`` are given where the part depends on them. ``fp16`` stores and computes in
    float16, except for ``islands``. Raises :class:`ExportError` when the graph contains what this project does not
    ship, :class:`CheckpointError` when the weights cannot be had.
    """
    spec = PARTS[part]
    fixed = _checked_dims(spec, lock, resolution, queries)
    if attention not in ("fusable", "plain"):
        raise ExportError(f"attention is {attention!r}", "it is fusable or plain")
    if precision not in ("fp32", "fp16"):
        raise ExportError(f"precision is {precision!r}", "it is fp32 or fp16")
    module = build_module(part, lock, resolution=resolution, queries=queries, attention=attention)
    model = _trace(spec, module, fixed)
    mark_islands(model, islands)
    tidy(model)
    set_interface(model, spec, fixed)
    model.metadata_props.clear()
    facts = {
        "checkpoint_digest": lock.digest,
        "part": part,
        "resolution": str(resolution or ""),
        "queries": str(queries or ""),
        "attention": attention,
        "dims": json.dumps(lock.dims, sort_keys=True),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    model.metadata_props.update(facts)
    if precision == "fp16":
        wide = to_float16(model, spec)
        model.metadata_props.update({"precision": precision, "islands": json.dumps(wide)})
    _write(model, output, spec)


def build_module(
    part: PartName,
    lock: CheckpointLock,
    *,
    resolution: int | None = None,
    queries: int | None = None,
    attention: AttentionForm = "fusable",
) -> nn.Module:
    """The PyTorch module that :func:`export_part` traces: the contract's inputs and outputs, float32, eval mode."""
    config = load_config(lock, resolution)
    with torch.no_grad():
        return _BUILDERS[part](lock, config, resolution or 0, queries or 0, attention).eval().requires_grad_(False)


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


# Tracing and writing ----------------------------------------------------------------------------------------------


def _checked_dims(spec: Part, lock: CheckpointLock, resolution: int | None, queries: int | None) -> dict[str, int]:
    dims = lock.model_dims
    for axis, value in (("resolution", resolution), ("queries", queries)):
        if (axis in spec.depends_on) != (value is not None):
            needs = "needs" if value is None else "does not depend on"
            raise ExportError(f"{spec.name} {needs} {axis}, and was given {value}")
    if resolution is not None and (resolution % dims.patch or resolution <= 0):
        raise ExportError(
            f"resolution {resolution} is no multiple of the patch of {dims.patch} pixels",
            f"use {max(1, round(resolution / dims.patch)) * dims.patch}",
        )
    if queries is not None and not 0 < queries <= dims.queries:
        raise ExportError(f"queries is {queries}", f"the checkpoint has {dims.queries}: use 1 to {dims.queries}")
    return fixed_dims(dims, resolution, queries)


def _example(shape: tuple[int | str, ...], dtype: str) -> Tensor:
    return torch.zeros([int(size) for size in shape], dtype=_DTYPES[dtype])


def _trace(spec: Part, module: nn.Module, fixed: dict[str, int]) -> ir.Model:
    examples = tuple(_example(resolve(tensor.shape, fixed | _TRACED), tensor.dtype) for tensor in spec.inputs)
    dims = {name: torch.export.Dim(name) for name in spec.dynamic_dims}
    dynamic = tuple(
        {place: dims[str(size)] for place, size in enumerate(tensor.shape) if size in dims} for tensor in spec.inputs
    )
    for noisy in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, examples, dynamo=True, opset_version=18, optimize=False, verbose=False, dynamic_shapes=dynamic
        )
    if program is None:
        raise ExportError(f"torch.onnx.export returned nothing for {spec.name}")
    return program.model


def _write(model: ir.Model, output: Path, spec: Part) -> None:
    """Write under temporary names beside ``output``, check there, and rename: the data first."""
    data = output.with_name(f"{output.name}.data")
    graph_part, data_part = temporary_name(output), temporary_name(data)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        ir.save(model, graph_part, external_data=data_part.name if spec.external_data else None)
        check_file(graph_part, spec.name)
        if spec.external_data:
            point_to_data(graph_part, data.name)
            os.replace(data_part, data)
        os.replace(graph_part, output)
    finally:
        graph_part.unlink(missing_ok=True)
        data_part.unlink(missing_ok=True)
