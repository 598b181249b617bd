"""How much boxes and masks cover of each other, for many pairs at once and at any image size.

A mask is compared as a *silhouette*: 16 × 16 samples of it, spread over its own box. So one costs 256 bytes whatever
the image, it moves and grows with its box, and an overlap comes out a few hundredths from the exact one. Knows boxes
and masks, and no tracks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.imaging.postprocess import PackedMasks

SIDE = 16  # samples of a silhouette along each side
_PAIRS_AT_ONCE = 4096  # a megabyte of samples each

Boxes = NDArray[np.floating[Any]]
"""xyxy in pixels, [N, 4], none without an area."""
Silhouettes = NDArray[np.bool_]
"""[N, SIDE, SIDE], row = y."""


def box_overlaps(first: Boxes, second: Boxes, margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes [N, 4] with boxes [M, 4]: [N, M], 0 to 1.

    ``margin`` [N, 2], along x and y in pixels, is how much larger both are made on each side before they are compared.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2]) - margin[:, None]
    high = np.minimum(first[:, None, 2:], second[None, :, 2:]) + margin[:, None]
    both = (high - low).clip(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2] + 2 * margin[:, None]).prod(-1) for box in (first[:, None], second[None])]
    return np.asarray(both / (areas[0] + areas[1] - both))


def silhouettes(masks: NDArray[np.bool_] | PackedMasks, chosen: NDArray[np.intp], boxes: Boxes) -> Silhouettes:
    """The ``chosen`` [N] of some masks, bool [K, H, W] or packed, sampled within boxes [N, 4].

    Outside the image there is nothing.
    """
    height, width = masks.size if isinstance(masks, PackedMasks) else masks.shape[1:]
    columns, rows = (_sample_points(boxes[:, axis], boxes[:, axis + 2]) for axis in (0, 1))
    on_image = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    if isinstance(masks, PackedMasks):
        return on_image & masks.at(chosen, rows, columns)
    return on_image & masks[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def mask_overlaps(
    first: Silhouettes, first_boxes: Boxes, second: Silhouettes, second_boxes: Boxes
) -> NDArray[np.float64]:
    """Intersection over union of the masks of P pairs: [P], 0 to 1; NaN where one of the two is empty.

    A silhouette lies in the box given, which may be another than it was sampled in: it moves and grows with it.
    """
    overlaps = [
        _overlaps_of_some(first[part], first_boxes[part], second[part], second_boxes[part])
        for part in (slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(first), _PAIRS_AT_ONCE))
    ]
    return np.concatenate(overlaps) if overlaps else np.zeros(0)


def _overlaps_of_some(
    first: Silhouettes, first_boxes: Boxes, second: Silhouettes, second_boxes: Boxes
) -> NDArray[np.float64]:
    """The first is looked up where the second has its samples."""
    size = first_boxes[:, 2:] - first_boxes[:, :2]
    step = (second_boxes[:, 2:] - second_boxes[:, :2]) / SIDE
    offset = second_boxes[:, :2] - first_boxes[:, :2]
    places = (offset[:, None] + (np.arange(SIDE)[:, None] + 0.5) * step[:, None]) * (SIDE / size)[:, None]
    samples = np.floor(places).astype(np.intp)  # [P, SIDE, 2], x and y
    within = (samples >= 0) & (samples < SIDE)
    samples = samples.clip(0, SIDE - 1)
    pair = np.arange(len(first))[:, None, None]
    found = first[pair, samples[:, :, None, 1], samples[:, None, :, 0]]
    found &= second & within[:, :, None, 1] & within[:, None, :, 0]
    both = np.count_nonzero(found, (1, 2)) * step.prod(1)
    areas = [
        np.count_nonzero(one, (1, 2)) * _areas(boxes) / SIDE**2
        for one, boxes in ((first, first_boxes), (second, second_boxes))
    ]
    either = areas[0] + areas[1] - both
    comparable = (areas[0] > 0) & (areas[1] > 0)
    # Samples are few, so the overlap of a small thing with a large one may come out over 1.
    overlaps = np.full(len(both), np.nan)
    np.divide(both, either, out=overlaps, where=comparable)
    return overlaps.clip(0, 1)


def _areas(boxes: Boxes) -> NDArray[np.floating[Any]]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1))


def _sample_points(low: NDArray[np.floating[Any]], high: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """Pixel indices [K, SIDE] of evenly spread points between ``low`` and ``high`` [K]."""
    return np.floor(low[:, None] + (np.arange(SIDE) + 0.5) * ((high - low) / SIDE)[:, None]).astype(np.intp)


def _inside(points: NDArray[np.intp], end: int) -> NDArray[np.bool_]:
    return (points >= 0) & (points < end)
