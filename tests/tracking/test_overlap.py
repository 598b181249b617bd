from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.imaging.postprocess import PackedMasks
from sam3_runtime.tracking.overlap import box_overlaps, mask_overlaps, silhouettes

SIZE = (90, 150)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2


def around(x: float, y: float, radius: float) -> list[float]:
    return [x - radius, y - radius, x + radius, y + radius]


def exact(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(
    ("first", "second", "margin", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 0, 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 0, 1 / 3),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0, 0.0),
        ([0, 0, 10, 10], [10, 0, 20, 10], 5, 200 / 600),
        ([0, 0, 1, 1], [3, 0, 4, 1], 1, 0.0),
    ],
)
def test_boxes(first: list[int], second: list[int], margin: float, expected: float) -> None:
    got = box_overlaps(np.array([first], float), np.array([second], float), np.full((1, 2), float(margin)))
    assert got == pytest.approx(np.array([[expected]]))


def test_every_box_with_every_other() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [20, 0, 24, 4]], float)
    assert box_overlaps(boxes, boxes[:2], np.zeros((3, 2))) == pytest.approx(np.array([[1, 1 / 3], [1 / 3, 1], [0, 0]]))


@pytest.mark.parametrize("packed", [False, True], ids=["bool", "packed"])
@pytest.mark.parametrize(("dx", "dy", "radius"), [(0, 0, 20), (7, -3, 20), (15, 10, 12), (30, 0, 20), (27, 27, 19)])
def test_masks_come_out_close_to_the_exact_overlap(packed: bool, dx: float, dy: float, radius: float) -> None:
    places = [(60.0, 45.0, 20.0), (60.0 + dx, 45.0 + dy, radius)]
    masks = np.stack([disc(*place) for place in places])
    boxes = np.array([around(*place) for place in places])
    stored = PackedMasks(np.packbits(masks, axis=2), SIZE) if packed else masks
    seen = silhouettes(stored, np.arange(2), boxes)
    for one, other in ((0, 1), (1, 0)):
        got = mask_overlaps(seen[[one]], boxes[[one]], seen[[other]], boxes[[other]])
        assert got == pytest.approx(exact(*masks), abs=0.05)


def test_packed_masks_give_the_same_samples() -> None:
    masks = np.random.default_rng(1).random((5, *SIZE)) > 0.5
    boxes = np.random.default_rng(2).uniform(-20, 100, (5, 4))
    boxes[:, 2:] = boxes[:, :2] + 40
    chosen = np.array([4, 0, 2, 2, 1])
    packed = PackedMasks(np.packbits(masks, axis=2), SIZE)
    assert np.array_equal(silhouettes(packed, chosen, boxes), silhouettes(masks, chosen, boxes))


def test_a_silhouette_moves_and_grows_with_its_box() -> None:
    boxes = np.array([around(30, 30, 10), around(100, 50, 25)])
    seen = silhouettes(np.stack([disc(30, 30, 10), disc(100, 50, 25)]), np.arange(2), boxes)
    assert mask_overlaps(seen[[0]], boxes[[1]], seen[[1]], boxes[[1]]) == pytest.approx(1, abs=0.05)


def test_boxes_that_overlap_with_masks_that_do_not() -> None:
    ring = disc(60, 45, 30) & ~disc(60, 45, 20)
    boxes = np.array([around(60, 45, 30), around(60, 45, 15)])
    seen = silhouettes(np.stack([ring, disc(60, 45, 15)]), np.arange(2), boxes)
    assert mask_overlaps(seen[[0]], boxes[[0]], seen[[1]], boxes[[1]]) == pytest.approx(0, abs=0.01)


def test_empty_masks_cannot_be_compared() -> None:
    boxes = np.array([around(60, 45, 10)] * 2)
    seen = silhouettes(np.stack([disc(60, 45, 10), np.zeros(SIZE, bool)]), np.arange(2), boxes)
    assert np.isnan(mask_overlaps(seen[[0]], boxes[[0]], seen[[1]], boxes[[1]])).all()
    assert mask_overlaps(seen[:0], boxes[:0], seen[:0], boxes[:0]).shape == (0,)


def test_a_pixel_is_compared_too() -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 40, 70] = True
    box = np.array([[70.0, 40.0, 71.0, 41.0]])
    seen = silhouettes(mask, np.arange(1), box)
    assert seen.all()
    assert mask_overlaps(seen, box, seen, box) == pytest.approx(1)


def test_outside_the_image_there_is_nothing() -> None:
    boxes = np.array([[-40.0, -40.0, 40.0, 40.0], [500.0, 0.0, 520.0, 20.0]])
    seen = silhouettes(np.ones((2, *SIZE), bool), np.arange(2), boxes)
    assert seen[0, 8:, 8:].all()
    assert (seen[0].sum(), seen[1].sum()) == (64, 0)
