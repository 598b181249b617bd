"""Estimate the disk space and GPU memory of the listed variants before anything is built.

Weights are the parameters in the requested precision, buffers every tensor at the largest batch, and scratch memory is
in proportion to measurements. Once engines are built, ``memory.py`` is exact. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sam3_runtime.families.base import BATCH, EIGHT_BIT, RESOLUTION, Estimated, Part, resolve
from sam3_runtime.plan.planning import Plan
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.memory import CUDA_CONTEXT_MIB, MIB

_REFERENCE = 100_000_000
_ITEM = {"float32": 4, "int64": 8, "bool": 1}


@dataclass(frozen=True)
class Estimate:
    """Sizes in MiB. ``gpu`` is that of the variant ``largest``, with the CUDA context; 0 on a CPU."""

    disk: int
    gpu: int
    largest: str
    made_of: str


def estimate(plan: Plan) -> Estimate | None:
    """Return the estimate for the variants of ``plan``; None for a small checkpoint, or a family without numbers."""
    known = plan.family.estimated
    if known is None or not plan.is_full_size:
        return None
    chosen = [plan.variant(name) for name in plan.names]
    sizes = {one: _on_gpu(plan, known, one) for one in chosen}
    largest = max(chosen, key=lambda one: sizes[one])
    return Estimate(
        disk=_on_disk(plan, known, chosen) // MIB,
        gpu=sizes[largest] // MIB + CUDA_CONTEXT_MIB if plan.backend.on_gpu else 0,
        largest=largest.name,
        made_of=known.made_of,
    )


def _item(plan: Plan, part: Part) -> int:
    return 2 if plan.precision(part.name) == "fp16" else 4


def _weights(plan: Plan, known: Estimated, part: Part, variant: Variant) -> int:
    """Parts in 8 bits keep a byte a parameter."""
    eight = part.eight_bit and variant.quantize in EIGHT_BIT
    return int(known.parameters[part.name] * (1 if eight else _item(plan, part)))


def _on_disk(plan: Plan, known: Estimated, chosen: Sequence[Variant]) -> int:
    """Graphs and engines, each once, and references."""
    files: dict[tuple[object, ...], int] = {}
    for variant in chosen:
        every = {**variant.axes, "quantize": variant.quantize}
        for part in plan.family.parts.values():
            axes = {axis: every[axis] for axis in part.depends_on}
            graph = tuple(value for axis, value in axes.items() if axis != BATCH)
            files[("graph", part.name, *graph)] = int(known.parameters[part.name] * _item(plan, part))
            files[("engine", part.name, *axes.values())] = _weights(plan, known, part, variant)
        files[("reference", variant[RESOLUTION])] = _REFERENCE
    return sum(files.values())


def _on_gpu(plan: Plan, known: Estimated, variant: Variant) -> int:
    spec, dims = plan.family, plan.variants.dims
    kept = [part for part in spec.parts.values() if not part.on_demand]
    weights = sum(_weights(plan, known, part, variant) for part in kept)
    values = spec.fixed(dims, variant.axes)
    buffers: dict[str, int] = {}
    for part in kept:
        limits = values | {symbol: one.max for symbol, one in spec.profile(part, dims, variant.batch).items()}
        for tensor in (*part.inputs, *part.outputs):
            item = _ITEM.get(tensor.dtype, _item(plan, part))
            size = prod(int(side) for side in resolve(tensor.shape, limits)) * item
            buffers[tensor.name] = max(buffers.get(tensor.name, 0), size)
    return weights + known.scratch(dims, variant.axes) + sum(buffers.values())
