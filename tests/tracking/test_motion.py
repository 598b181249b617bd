from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.tracking.motion import MOTION, begin, boxes_of, correct, predict, stop_at_border, uncertainty

BOX = np.array([[100.0, 50.0, 140.0, 110.0]])


def moved(x: float, y: float = 0.0) -> np.ndarray:
    return BOX + np.array([x, y, x, y])


def test_what_was_seen_once_is_where_it_was() -> None:
    motions = begin(BOX)
    predict(motions, 0.04)
    assert boxes_of(motions) == pytest.approx(BOX)


def test_velocity_is_learnt_and_kept() -> None:
    motions = begin(BOX)
    for frame in range(1, 26):
        predict(motions, 0.04)
        motions = correct(motions, moved(4.0 * frame, -2.0 * frame))
    assert motions["velocity"][0] == pytest.approx([100, -50], rel=0.05)
    predict(motions, 1.0)
    assert boxes_of(motions) == pytest.approx(moved(200, -100), abs=6)


def test_frames_left_out_come_to_the_same() -> None:
    once = correct(begin(BOX), moved(3))
    twice = once.copy()
    predict(once, 0.12)
    for _ in range(3):
        predict(twice, 0.04)
    assert len(MOTION.names or ()) == 7
    for field in MOTION.names or ():
        assert once[field] == pytest.approx(twice[field]), field


def test_uncertainty_grows_out_of_sight_and_shrinks_when_seen() -> None:
    motions = correct(begin(BOX), BOX)
    near = uncertainty(motions)
    predict(motions, 0.5)
    far = uncertainty(motions)
    assert (far > 3 * near).all()
    assert (uncertainty(correct(motions, BOX)) < far / 3).all()


@pytest.mark.parametrize("hidden", [5, 20, 35])
def test_a_box_that_is_cut_goes_on_as_the_whole_does(hidden: float) -> None:
    """Moving right, with more and more of its right hidden: the left edge tells the speed."""
    motions = begin(BOX)
    for frame in range(1, 13):
        predict(motions, 0.04)
        motions = correct(motions, moved(2.0 * frame))
    for frame in range(13, 18):
        predict(motions, 0.04)
        motions = correct(motions, moved(2.0 * frame) - [0, 0, hidden * (frame - 12) / 5, 0])
    assert boxes_of(motions)[0, 0] == pytest.approx(134, abs=4)
    assert motions["velocity"][0, 0] == pytest.approx(50, rel=0.15)
    assert motions["size"][0, 0] > 40 - 0.6 * hidden


def test_what_leaves_the_image_stops_at_its_border() -> None:
    motions = begin(np.concatenate([BOX, BOX]))
    motions["velocity"] = [[300, 20], [-10, 20]]
    predict(motions, 1.0)
    after = stop_at_border(motions, (480, 400))
    assert after["centre"].tolist() == [[400, 100], [110, 100]]
    assert after["velocity"].tolist() == [[0, 20], [-10, 20]]


def test_many_are_as_each_alone() -> None:
    boxes = np.concatenate([BOX, moved(500) * 2, [[3.0, 3.0, 4.0, 4.0]]])
    together = begin(boxes)
    predict(together, 0.1)
    together = correct(together, boxes + 2)
    for row in range(3):
        alone = begin(boxes[[row]])
        predict(alone, 0.1)
        assert correct(alone, boxes[[row]] + 2) == together[[row]]


def test_a_box_without_an_area_is_a_pixel() -> None:
    assert boxes_of(begin(np.array([[7.0, 7.0, 7.0, 7.0]]))) == pytest.approx(np.array([[6.5, 6.5, 7.5, 7.5]]))
