"""Areas and overlaps of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]
"""xyxy in any unit, [..., 4]."""


def area(boxes: Boxes) -> NDArray[np.float64]:
    """Areas [...] of boxes [..., 4]; 0 where a box is inverted."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1), np.float64)


def intersection(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Areas of the intersections of boxes [..., 4], broadcast against each other."""
    low = np.maximum(one[..., :2], other[..., :2])
    return area(np.concatenate([low, np.minimum(one[..., 2:], other[..., 2:])], axis=-1))


def box_iou(one: Boxes, other: Boxes) -> NDArray[np.float64]:
    """Intersection over union, 0 to 1, of boxes [..., 4], broadcast against each other; 1 for two boxes of no area."""
    shared = intersection(one, other)
    union = area(one) + area(other) - shared
    return np.asarray(np.divide(shared, union, out=np.ones_like(union), where=union > 0))
