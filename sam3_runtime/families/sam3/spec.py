"""The axes of SAM3's variants. Its parts and their tensors are in ``contract.py``. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sam3_runtime.families.base import BATCH, Axis, FamilySpec, Refusal
from sam3_runtime.families.sam3.contract import ModelDims


def _own_values(dims: ModelDims) -> dict[str, int]:
    return {"resolution": dims.image_size}


def _refuse(dims: ModelDims, values: Mapping[str, int]) -> Refusal | None:
    """A resolution off the model's patches, or more queries than it has."""
    resolution, queries = values["resolution"], values["queries"]
    if resolution % dims.patch:
        below = resolution // dims.patch * dims.patch
        near = [str(size) for size in (below, below + dims.patch) if size > 0]
        return (
            f"resolution {resolution} is not a multiple of the patch size {dims.patch}",
            f"the nearest multiples of {dims.patch} are {' and '.join(near)}",
        )
    if queries > dims.queries:
        return f"queries {queries} is more than the model's {dims.queries}", f"use {dims.queries} or fewer"
    return None


SAM3 = FamilySpec(
    name="sam3",
    axes=(Axis(BATCH, "b", 8), Axis("queries", "q", 50, place="file"), Axis("resolution", "r")),
    own_values=_own_values,
    refuse=_refuse,
)
