"""Exports a part of a checkpoint to an ONNX file: traces its PyTorch module, tidies, checks and writes the graph.

Tracing runs no arithmetic, so that a full-size encoder needs little more memory than its weights; it is always in
float32. The family's ``export/graph.py`` constructs the module, ``cleanup.py`` tidies the traced graph; ``typed.py``
and ``islands.py`` convert it to float16. The same checkpoint and the same versions give the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from sam3_runtime.core.errors import ExportError
from sam3_runtime.core.files import temporary_name
from sam3_runtime.families import DEFAULT, exporter
from sam3_runtime.families.base import BATCH, Part, resolve
from sam3_runtime.graphs.cleanup import check_file, point_to_data, set_interface, tidy
from sam3_runtime.graphs.islands import mark_islands
from sam3_runtime.graphs.typed import to_float16
from sam3_runtime.records.records import CheckpointLock

_DTYPES = {"float": torch.float32, "float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


def export_graph(
    name: str,
    lock: CheckpointLock,
    output: Path,
    *,
    axes: Mapping[str, int],
    precision: str = "fp32",
    islands: Collection[str] | None = None,
    **settings: Any,
) -> None:
    """Write the part ``name`` of the checkpoint as ONNX (opset 17) to ``output``, and external data beside it.

    ``axes`` are those that the part's graphs depend on; ``settings`` are the family's ``export:``. ``fp16`` stores and
    computes in float16, except in ``islands`` (by default the family's). Whether there is a file ``<output>.data`` is
    the part's ``external_data``. Raises :class:`ExportError` for wrong arguments and for a graph that contains
    operators which are not shipped, :class:`CheckpointError` when the weights cannot be read.
    """
    family, part = exporter(lock.family, "graph"), lock.spec.parts[name]
    for axis in lock.spec.keys:
        if axis != BATCH and (axis in part.depends_on) != (axis in axes):
            needs = "does not depend on" if axis in axes else "needs"
            raise ExportError(f"{name} {needs} {axis}, but {axis} is {axes.get(axis)}")
    if precision not in ("fp32", "fp16"):
        raise ExportError(f"precision is {precision!r}", "it is fp32 or fp16")
    module = family.module_of(name, lock, axes, settings)
    fixed = lock.spec.fixed(lock.model_dims, axes)
    model = _trace(part, module, fixed, family.TRACED)
    mark_islands(model, family.ISLANDS if islands is None else islands)
    tidy(model, lock.spec.name)
    set_interface(model, part, fixed)
    model.metadata_props.clear()
    facts = {"checkpoint_digest": lock.digest, "part": name}
    facts |= {axis: str(axes.get(axis, "")) for axis in reversed(lock.spec.keys) if axis != BATCH}
    facts |= {key: str(value) for key, value in settings.items()}
    facts |= {"dims": json.dumps(lock.dims, sort_keys=True), "torch": torch.__version__, **family.VERSIONS}
    if lock.spec.name != DEFAULT:
        facts["family"] = lock.spec.name
    if lock.preprocessing:
        facts["preprocessing"] = lock.preprocessing.model_dump_json()
    model.metadata_props.update(facts)
    if precision == "fp16":
        model.metadata_props.update({"precision": precision, "islands": json.dumps(to_float16(model, part))})
    _write(model, output, part)


def _trace(part: Part, module: nn.Module, fixed: Mapping[str, int], traced: Mapping[str, int]) -> ir.Model:
    shapes: Any = [resolve(tensor.shape, {**fixed, **traced}) for tensor in part.inputs]
    examples = tuple(torch.zeros(one, dtype=_DTYPES[each.dtype]) for one, each in zip(shapes, part.inputs, strict=True))
    dims = {name: torch.export.Dim(name) for name in part.dynamic}
    dynamic = tuple(
        {index: dims[str(size)] for index, size in enumerate(tensor.shape) if size in dims} for tensor in part.inputs
    )
    for noisy in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, examples, dynamo=True, opset_version=18, optimize=False, verbose=False, dynamic_shapes=dynamic
        )
    if program is None:
        raise ExportError(f"torch.onnx.export returned nothing for {part.name}")
    return program.model


def _write(model: ir.Model, output: Path, part: Part) -> None:
    """Write and check under temporary names beside ``output``, then rename, the data first."""
    data = output.with_name(f"{output.name}.data")
    graph_part, data_part = temporary_name(output), temporary_name(data)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        ir.save(model, graph_part, external_data=data_part.name if part.external_data else None)
        check_file(graph_part, part.name)
        if part.external_data:
            point_to_data(graph_part, data.name)
            os.replace(data_part, data)
        os.replace(graph_part, output)
    finally:
        graph_part.unlink(missing_ok=True)
        data_part.unlink(missing_ok=True)
