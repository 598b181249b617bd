"""SAM3's limits and profiles."""

from __future__ import annotations

import pytest

from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, ModelDims, fixed_dims
from sam3_runtime.families.sam3.spec import SAM3


@pytest.mark.parametrize("part", PART_NAMES)
def test_a_profile_covers_every_dynamic_dimension(part: str) -> None:
    spec = PARTS[part]  # type: ignore[index]
    ranges = SAM3.profile(spec, ModelDims(), batch=4, optimal={"P": 99, "B": 2})
    assert set(ranges) == set(spec.dynamic)
    for symbol, found in ranges.items():
        assert found.min <= found.opt <= found.max, symbol
    symbols = {dim for tensor in spec.outputs for dim in tensor.shape if isinstance(dim, str)}
    known = set(ranges) | set(fixed_dims(ModelDims(), 1008, 50)) | {"n+1"}
    assert symbols <= known
