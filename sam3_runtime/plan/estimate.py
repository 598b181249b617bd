"""Roughly what the listed variants will take, before anything is built: disk, and memory on the GPU.

Weights are the full-size model's parameters in the precision asked for; buffers are the contract's shapes at the
largest batch; scratch is in proportion to what TensorRT-RTX reported for full-size vision encoders. Once engines are
built, ``memory.py`` is exact and this is not needed. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sam3_runtime.families.sam3.contract import PART_NAMES, PARTS, ModelDims, PartName, fixed_dims, profile, resolve
from sam3_runtime.measure.memory import CUDA_CONTEXT_MIB, MIB
from sam3_runtime.plan.planning import Plan
from sam3_runtime.plan.variants import Variant

MADE_OF = (
    "weights: 840 million parameters in the precision asked for; buffers: every tensor at the largest batch; scratch: "
    "27 KiB for each token of each image, as full-size vision encoders took; files: a graph and an engine of each, "
    "100 MB for each reference"
)
_PARAMETERS = {"vision-encoder": 454.0e6, "text-encoder": 353.8e6, "geometry-encoder": 8.1e6, "decoder": 23.4e6}
_SCRATCH_PER_TOKEN = 27 << 10  # bytes: 1 125 MiB at 1008 and 500 MiB at 672, batch 8, TensorRT-RTX 1.7 (docs/results)
_REFERENCE = 100_000_000
_ITEM = {"float32": 4, "int64": 8, "bool": 1}
_FULL_SIZE = 256  # channels of the full-size model


@dataclass(frozen=True)
class Estimate:
    """MiB. ``gpu`` is of the variant ``largest``, text encoder released, CUDA context included; 0 where engines run on
    a CPU."""

    disk: int
    gpu: int
    largest: str


def estimate(plan: Plan) -> Estimate | None:
    """What the variants of ``plan`` will take; None for a small checkpoint, which takes next to nothing."""
    dims = plan.variants.dims
    if dims.channels < _FULL_SIZE:
        return None
    chosen = [plan.variant(name) for name in plan.names]
    sizes = {one: _on_gpu(plan, dims, one) for one in chosen}
    largest = max(chosen, key=lambda one: sizes[one])
    return Estimate(
        disk=_on_disk(plan, chosen) // MIB,
        gpu=sizes[largest] // MIB + CUDA_CONTEXT_MIB if plan.backend.on_gpu else 0,
        largest=largest.name,
    )


def _item(plan: Plan, part: PartName) -> int:
    return 2 if plan.precision(part) == "fp16" else 4


def _weights(plan: Plan, part: PartName, variant: Variant) -> int:
    """8-bit vision encoders keep a byte a parameter."""
    eight = part == "vision-encoder" and variant.quantize != "none"
    return int(_PARAMETERS[part] * (1 if eight else _item(plan, part)))


def _on_disk(plan: Plan, chosen: Sequence[Variant]) -> int:
    """Graphs and engines, each once, and references."""
    files: dict[tuple[object, ...], int] = {}
    for variant in chosen:
        for part in PART_NAMES:
            on = PARTS[part].depends_on
            every = {**variant.axes, "quantize": variant.quantize}
            axes = {axis: every[axis] for axis in on}
            graph = tuple(value for axis, value in axes.items() if axis != "batch")
            files[("graph", part, *graph)] = int(_PARAMETERS[part] * _item(plan, part))
            files[("engine", part, *axes.values())] = _weights(plan, part, variant)
        files[("reference", variant["resolution"])] = _REFERENCE
    return sum(files.values())


def _on_gpu(plan: Plan, dims: ModelDims, variant: Variant) -> int:
    kept: list[PartName] = [part for part in PART_NAMES if part != "text-encoder"]
    weights = sum(_weights(plan, part, variant) for part in kept)
    scratch = _SCRATCH_PER_TOKEN * variant.batch * dims.grid(variant["resolution"]) ** 2
    values = fixed_dims(dims, variant["resolution"], variant["queries"])
    buffers: dict[str, int] = {}
    for part in kept:
        limits = values | {symbol: known.max for symbol, known in profile(PARTS[part], dims, variant.batch).items()}
        for tensor in (*PARTS[part].inputs, *PARTS[part].outputs):
            size = prod(int(side) for side in resolve(tensor.shape, limits)) * _ITEM.get(
                tensor.dtype, _item(plan, part)
            )
            buffers[tensor.name] = max(buffers.get(tensor.name, 0), size)
    return weights + scratch + sum(buffers.values())
