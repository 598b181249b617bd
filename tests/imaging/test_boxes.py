from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.imaging.boxes import area, box_iou, intersection


@pytest.mark.parametrize(
    ("one", "other", "shared", "iou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 100, 1),
        ([0, 0, 10, 10], [5, 0, 15, 10], 50, 1 / 3),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0, 0),
        ([0, 0, 10, 10], [20, 20, 30, 30], 0, 0),
        ([3, 3, 3, 3], [3, 3, 3, 3], 0, 1),
    ],
)
def test_two_boxes(one: list[int], other: list[int], shared: float, iou: float) -> None:
    first, second = np.array(one, float), np.array(other, float)
    assert intersection(first, second) == intersection(second, first) == shared
    assert box_iou(first, second) == box_iou(second, first) == pytest.approx(iou)


def test_boxes_are_broadcast() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [20, 0, 24, 4]], float)
    assert box_iou(boxes[:, None], boxes[:2]) == pytest.approx(np.array([[1, 1 / 3], [1 / 3, 1], [0, 0]]))
    assert box_iou(boxes, boxes).tolist() == [1, 1, 1]
    assert area(np.array([[5.0, 5, 1, 9]])).tolist() == [0]
