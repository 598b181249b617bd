"""Overlaps of boxes and masks, for many pairs at once.

A mask is compared as a *silhouette*: 16 × 16 samples of it, spread over its box. It takes 256 bytes at any image size,
moves and scales with its box, and its overlap is within a few hundredths of the exact one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.imaging.boxes import Boxes, area, box_iou
from sam3_runtime.imaging.postprocess import PackedMasks

SIDE = 16  # samples of a silhouette along each side
_CHUNK = 4096  # pairs compared at once, a megabyte of samples each
Silhouettes = NDArray[np.bool_]
"""[N, SIDE, SIDE], row = y."""


def box_overlaps(first: Boxes, second: Boxes, margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes xyxy [N, 4] with boxes [M, 4]: [N, M], 0 to 1.

    Both boxes are first grown on each side by ``margin`` [N, 2], along x and y in pixels.
    """
    grow = np.concatenate([-margin, margin], axis=1)
    return box_iou((first + grow)[:, None], second + grow[:, None])


def silhouettes(masks: NDArray[np.bool_] | PackedMasks, chosen: NDArray[np.intp], boxes: Boxes) -> Silhouettes:
    """Sample the masks at indices ``chosen`` [N], bool [K, H, W] or packed, within ``boxes`` [N, 4].

    Samples outside the image are False.
    """
    height, width = masks.size if isinstance(masks, PackedMasks) else masks.shape[1:]
    columns, rows = (_sample_points(boxes[:, axis], boxes[:, axis + 2]) for axis in (0, 1))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    if isinstance(masks, PackedMasks):
        return np.asarray(inside & masks.at(chosen, rows, columns))
    return np.asarray(inside & masks[chosen[:, None, None], rows[:, :, None], columns[:, None, :]])


def mask_overlaps(
    first: Silhouettes, first_boxes: Boxes, second: Silhouettes, second_boxes: Boxes
) -> NDArray[np.float64]:
    """Return the intersection over union of the masks of P pairs: [P], 0 to 1; NaN where either mask is empty.

    The boxes [P, 4] are the positions of the masks now, which may differ from those that were sampled.
    """
    overlaps = [
        _overlaps_of_chunk(first[part], first_boxes[part], second[part], second_boxes[part])
        for part in (slice(start, start + _CHUNK) for start in range(0, len(first), _CHUNK))
    ]
    return np.concatenate(overlaps) if overlaps else np.zeros(0)


def _overlaps_of_chunk(
    first: Silhouettes, first_boxes: Boxes, second: Silhouettes, second_boxes: Boxes
) -> NDArray[np.float64]:
    """Look the first mask up at the sample points of the second."""
    size = first_boxes[:, 2:] - first_boxes[:, :2]
    step = (second_boxes[:, 2:] - second_boxes[:, :2]) / SIDE
    offset = second_boxes[:, :2] - first_boxes[:, :2]
    points = (offset[:, None] + (np.arange(SIDE)[:, None] + 0.5) * step[:, None]) * (SIDE / size)[:, None]
    samples = np.floor(points).astype(np.intp)  # [P, SIDE, 2], x and y
    inside = (samples >= 0) & (samples < SIDE)
    samples = samples.clip(0, SIDE - 1)
    pair = np.arange(len(first))[:, None, None]
    found = first[pair, samples[:, :, None, 1], samples[:, None, :, 0]]
    found &= second & inside[:, :, None, 1] & inside[:, None, :, 0]
    shared = np.count_nonzero(found, (1, 2)) * step.prod(1)
    covered = [
        np.count_nonzero(one, (1, 2)) * area(boxes) / SIDE**2
        for one, boxes in ((first, first_boxes), (second, second_boxes))
    ]
    overlaps = np.full(len(shared), np.nan)
    both = (covered[0] > 0) & (covered[1] > 0)
    np.divide(shared, covered[0] + covered[1] - shared, out=overlaps, where=both)
    return overlaps.clip(0, 1)  # sampling can give a small mask in a large one slightly more than 1


def _sample_points(low: NDArray[np.floating], high: NDArray[np.floating]) -> NDArray[np.intp]:
    """Pixel indices [K, SIDE] of evenly spread points between ``low`` and ``high`` [K]."""
    return np.floor(low[:, None] + (np.arange(SIDE) + 0.5) * ((high - low) / SIDE)[:, None]).astype(np.intp)
