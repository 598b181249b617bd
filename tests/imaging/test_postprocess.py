from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.imaging.postprocess import PackedMasks, mask_to_rle, resize_masks, rle_to_mask, sigmoid


def test_sigmoid_of_large_values_is_quiet() -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert sigmoid(np.asarray([-1e4, 0, 1e4], np.float32)).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("width", [1, 7, 8, 9, 21])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_packed_masks_are_unpacked_at_any_width(width: int, count: int) -> None:
    masks = np.random.default_rng(width).random((count, 5, width)) > 0.5
    unpacked = PackedMasks(np.packbits(masks, axis=2), (5, width)).unpack()
    assert (unpacked.dtype, unpacked.shape) == (np.bool_, masks.shape)
    assert np.array_equal(unpacked, masks)


def test_masks_survive_the_run_length_encoding() -> None:
    masks = resize_masks(np.random.default_rng(1).normal(size=(4, 12, 12)).astype(np.float32), (33, 21))
    for mask in [*masks, np.zeros((5, 6), bool), np.ones((5, 6), bool)]:
        encoded = mask_to_rle(mask)
        assert encoded["size"] == list(mask.shape)
        assert isinstance(encoded["counts"], str)
        assert np.array_equal(rle_to_mask(encoded), mask)
