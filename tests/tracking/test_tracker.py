"""Small synthetic motion: discs and squares on an image of 200 × 300, at 25 frames a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sam3_runtime.imaging.postprocess import Detections, PackedMasks
from sam3_runtime.tracking.tracker import NO_TRACK, Tracker, TrackError, TrackSettings

SIZE = (200, 300)
FPS = 25.0
Spot = tuple[float, float, float]
"""x, y, radius in pixels."""


def detections(spots: Sequence[Spot], scores: Sequence[float] | None = None, number: int = 0) -> Detections:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = [(columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < r**2 for x, y, r in spots]
    boxes = np.array([[x - r, y - r, x + r, y + r] for x, y, r in spots], np.float32).reshape(-1, 4)
    found = np.asarray([0.9] * len(spots) if scores is None else scores, np.float32)
    return Detections(
        f"class {number}", number, boxes, found, np.array(masks, bool).reshape(-1, *SIZE), np.arange(len(spots))
    )


def follow(tracker: Tracker, frames: Sequence[Sequence[Spot]]) -> list[list[int]]:
    """The ids of each frame's spots, of a tracker of one class."""
    return [tracker.update([detections(spots)])[0].tolist() for spots in frames]


def path(x: float, y: float, dx: float, dy: float, frames: int, radius: float = 12) -> list[Spot]:
    return [(x + dx * frame, y + dy * frame, radius) for frame in range(frames)]


def test_an_id_comes_when_a_track_is_confirmed_and_stays() -> None:
    ids = follow(Tracker(1, FPS, TrackSettings(confirm=3)), [[spot] for spot in path(30, 50, 4, 1, 20)])
    assert ids == [[NO_TRACK]] * 2 + [[1]] * 18


def test_confirm_of_one_gives_ids_at_once_the_best_first() -> None:
    tracker = Tracker(1, FPS, TrackSettings(confirm=1))
    assert follow(tracker, [[(50, 50, 9), (150, 50, 9)]]) == [[1, 2]]
    assert tracker.ids_given == 2


def test_rows_may_come_in_any_order() -> None:
    left, right = path(50, 50, 2, 0, 10), path(200, 120, -2, 0, 10)
    frames = [[a, b] if frame % 2 else [b, a] for frame, (a, b) in enumerate(zip(left, right, strict=True))]
    ids = follow(Tracker(1, FPS), frames)
    assert ids[1:] == [[1, 2] if frame % 2 else [2, 1] for frame in range(1, 10)]


def test_two_that_cross_keep_their_ids() -> None:
    one, other = path(40, 100, 5, 0, 40), path(240, 108, -5, 0, 40)
    ids = follow(Tracker(1, FPS), [list(pair) for pair in zip(one, other, strict=True)])
    assert ids[1:] == [[1, 2]] * 39


def test_masks_tell_apart_what_boxes_do_not() -> None:
    """Two bars across one box, as the diagonals of a square, turn up in the other order."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    band = abs(columns - rows - 50) < 5, abs(columns + rows - 250) < 5
    inside = (columns >= 100) & (columns < 200) & (rows >= 50) & (rows < 150)
    masks = np.stack([inside & one for one in band])
    boxes = np.array([[100, 50, 200, 150]] * 2, np.float32)
    tracker = Tracker(1, FPS, TrackSettings(confirm=1))

    def ids(order: list[int]) -> list[int]:
        scores = np.array([0.9, 0.8], np.float32)
        return tracker.update([Detections("bar", 0, boxes, scores, masks[order], np.arange(2))])[0].tolist()

    assert ids([0, 1]) == [1, 2]
    assert ids([1, 0]) == [2, 1]
    assert ids([1, 0]) == [2, 1]


@pytest.mark.parametrize("hidden", [1, 5, 20])
def test_what_was_hidden_is_found_where_it_was_going(hidden: int) -> None:
    frames = [[spot] for spot in path(30, 50, 3, 1, 50)]
    for frame in range(20, 20 + hidden):
        frames[frame] = []
    ids = follow(Tracker(1, FPS), frames)
    assert {one for pair in ids[1:] for one in pair} == {1}


def test_what_comes_out_from_behind_something_is_known_by_its_first_sliver() -> None:
    """A disc goes behind a wall of 60 pixels; of what is not hidden, box and mask are what is found."""
    tracker = Tracker(1, FPS)
    ids = []
    for x, y, radius in path(60, 100, 3, 0, 60, radius=20):
        whole = detections([(x, y, radius)])
        masks = whole.masks & ~((np.arange(SIZE[1]) >= 130) & (np.arange(SIZE[1]) < 190))
        found = detections([])
        if masks.any():
            boxes, columns = whole.boxes.copy(), np.flatnonzero(masks[0].any(0))
            boxes[0, [0, 2]] = columns[0], columns[-1] + 1
            found = Detections("x", 0, boxes, whole.scores, masks, whole.query_index)
        ids.append(tracker.update([found])[0].tolist())
    assert [] in ids
    assert {one for pair in ids[1:] for one in pair} == {1}


def test_what_is_lost_for_too_long_comes_back_as_another() -> None:
    settings = TrackSettings(lost=0.5, confirm=1)
    frames: list[list[Spot]] = [[(100, 100, 15)]] * 5 + [[]] * 12 + [[(100, 100, 15)]] + [[]] * 14 + [[(100, 100, 15)]]
    ids = follow(Tracker(1, FPS, settings), frames)
    assert [one for one in ids if one] == [[1]] * 5 + [[1]] + [[2]]


def test_leaving_the_image_and_returning_in_time() -> None:
    frames = [[(x, 100.0, 15.0)] if x < 310 else [] for x in [*range(240, 330, 4), *range(330, 240, -4)]]
    ids = follow(Tracker(1, FPS), frames)
    gone = [not spots for spots in frames]
    assert sum(gone) >= 5
    assert {one for pair in ids[1:] for one in pair} == {1}


def test_one_that_appears_gets_an_id_of_its_own() -> None:
    old, new = path(40, 50, 3, 0, 30), path(200, 150, -3, 0, 30)
    ids = follow(
        Tracker(1, FPS), [[a, b] if frame >= 10 else [a] for frame, (a, b) in enumerate(zip(old, new, strict=True))]
    )
    assert ids[9:12] == [[1], [1, NO_TRACK], [1, 2]]
    assert all(pair == [1, 2] for pair in ids[11:])


def test_ids_are_never_used_twice() -> None:
    random = np.random.default_rng(5)
    tracker = Tracker(1, FPS, TrackSettings(lost=0.1, confirm=1))
    given: list[int] = []
    for _ in range(30):
        spots = [(float(x), float(y), 6.0) for x, y in random.uniform(10, 190, (3, 2))]
        given += [one for one in follow(tracker, [spots, []])[0] if one not in given[-3:]]
        follow(tracker, [[]] * 5)
    assert given == list(range(1, tracker.ids_given + 1))
    assert len(given) == 90


def test_classes_do_not_mix_and_share_one_row_of_ids() -> None:
    tracker = Tracker(3, FPS)
    for frame, spot in enumerate(path(40, 60, 4, 0, 12)):
        found = [detections([spot], number=0), detections([], number=1), detections([spot], number=2)]
        ids = [one.tolist() for one in tracker.update(found)]
        assert ids == ([[NO_TRACK], [], [NO_TRACK]] if frame == 0 else [[1], [], [2]])
    # What was of the first class is of the second now: another track.
    for _ in range(2):
        ids = [one.tolist() for one in tracker.update([detections([]), detections([spot]), detections([])])]
    assert ids == [[], [3], []]


def test_weak_detections_keep_a_track_alive_and_begin_none() -> None:
    tracker = Tracker(1, FPS, TrackSettings(begin=0.5, lost=0.1))
    ids = []
    for frame, spot in enumerate(path(40, 60, 4, 0, 30)):
        weak_one = (200.0, 150.0, 14.0)
        found = detections([spot, weak_one], [0.9 if frame < 5 else 0.35, 0.4])
        ids.append(tracker.update([found])[0].tolist())
    assert ids[1:] == [[1, NO_TRACK]] * 29


def test_a_weak_detection_does_not_take_the_track_of_a_sure_one() -> None:
    tracker = Tracker(1, FPS, TrackSettings(confirm=1))
    tracker.update([detections([(100, 100, 20)])])
    found = detections([(104, 100, 20), (100, 100, 20)], [0.8, 0.4])  # the weak one lies better
    assert tracker.update([found])[0].tolist() == [1, NO_TRACK]


def test_a_false_alarm_of_one_frame_gets_no_id() -> None:
    frames: list[list[Spot]] = [[(60, 60, 12)] for _ in range(10)]
    frames[5] = [(60, 60, 12), (220, 150, 12)]
    tracker = Tracker(1, FPS)
    assert follow(tracker, frames)[5] == [1, NO_TRACK]
    assert tracker.ids_given == 1


def test_dropped_frames_are_made_up_for_by_their_time() -> None:
    """A spot of 16 pixels that moves 8 a frame: with nine frames of ten dropped, only its time tells where it is."""
    frames = [(frame, spot) for frame, spot in enumerate(path(10, 100, 6, 0, 45, 8)) if frame <= 10 or frame % 10 == 0]
    told, untold = Tracker(1, FPS), Tracker(1, FPS)
    with_time = [told.update([detections([spot])], frame / FPS)[0].tolist() for frame, spot in frames]
    without = [untold.update([detections([spot])])[0].tolist() for _, spot in frames]
    assert set(map(tuple, with_time[1:])) == {(1,)}
    assert without[-1] != [1]


def test_a_slow_source_is_tracked_too() -> None:
    tracker = Tracker(1, 0.5, TrackSettings(lost=0))
    assert follow(tracker, [[(60, 60, 12)], [(62, 60, 12)], [(64, 60, 12)]]) == [[NO_TRACK], [1], [1]]


def test_a_source_that_begins_anew_has_new_tracks() -> None:
    tracker = Tracker(1, FPS)
    ids = [tracker.update([detections([(60, 60, 12)])], at)[0].tolist() for at in (1.0, 1.04, 1.08, 0.0, 0.04)]
    assert ids == [[NO_TRACK], [1], [1], [NO_TRACK], [2]]


@pytest.mark.parametrize("packed", [False, True], ids=["bool", "packed"])
def test_nothing_found_for_whole_frames(packed: bool) -> None:
    tracker = Tracker(2, FPS)
    empty: Any = np.zeros((0, *SIZE), bool)
    stored = PackedMasks(np.packbits(empty, axis=2), SIZE) if packed else empty
    none = Detections("x", 0, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), stored, np.zeros(0, np.int64))
    for _ in range(3):
        ids = tracker.update([none, none])
        assert [(one.shape, one.dtype) for one in ids] == [((0,), np.int64)] * 2


def test_boxes_of_one_pixel_are_followed() -> None:
    rows, columns = 100, np.arange(40, 60)
    tracker = Tracker(1, FPS)
    for frame, column in enumerate(columns):
        mask = np.zeros((1, *SIZE), bool)
        mask[0, rows, column] = True
        box = np.array([[column, rows, column + 1, rows + 1]], np.float32)
        found = Detections("dot", 0, box, np.ones(1, np.float32), mask, np.zeros(1, np.int64))
        assert tracker.update([found])[0].tolist() == [1 if frame else NO_TRACK]
    assert tracker.ids_given == 1


def test_empty_masks_leave_it_to_the_boxes() -> None:
    tracker = Tracker(1, FPS)
    for frame, spot in enumerate(path(40, 60, 4, 0, 20)):
        whole = detections([spot])
        masks = whole.masks if frame % 3 else np.zeros_like(whole.masks)
        found = Detections("x", 0, whole.boxes, whole.scores, masks, whole.query_index)
        assert tracker.update([found])[0].tolist() == [1 if frame else NO_TRACK]
    assert tracker.ids_given == 1


def test_boxes_that_are_no_numbers_belong_to_no_track() -> None:
    tracker = Tracker(1, FPS, TrackSettings(confirm=1))
    for _ in range(2):
        found = detections([(60, 60, 12), (160, 60, 12)])
        found.boxes[0, 2] = math.nan
        assert tracker.update([found])[0].tolist() == [NO_TRACK, 1]


def crowd(frames: int, count: int, size: tuple[int, int] = (1080, 1920)) -> list[Detections]:
    """Boxes that wander, with packed masks, a tenth of them missing in each frame; row order is shuffled.

    ``query_index`` says which is which.
    """
    random = np.random.default_rng(11)
    centre, velocity = random.uniform(100, 900, (count, 2)) * [2, 1], random.uniform(-6, 6, (count, 2))
    extent = random.uniform(20, 60, (count, 2))
    found = []
    for _ in range(frames):
        centre += velocity
        seen = random.permutation(count)[: count - count // 10]
        boxes = np.concatenate([centre - extent, centre + extent], 1)[seen] + random.normal(0, 1, (len(seen), 4))
        bits = np.zeros((len(seen), size[0], size[1] // 8), np.uint8)
        for mask, (left, top, right, bottom) in zip(bits, boxes.astype(int).clip(0), strict=True):
            mask[top:bottom, left // 8 : right // 8] = 255
        scores = random.uniform(0.6, 1, len(seen)).astype(np.float32)
        found.append(Detections("x", 0, boxes.astype(np.float32), scores, PackedMasks(bits, size), seen))
    return found


def test_many_keep_their_ids_and_every_run_is_the_same() -> None:
    frames = crowd(25, 40)
    runs = []
    for _ in range(2):
        tracker = Tracker(1, FPS)
        runs.append([tracker.update([found])[0].tolist() for found in frames])
    assert runs[0] == runs[1]
    ids_of: dict[int, set[int]] = {}
    for found, ids in zip(frames, runs[0], strict=True):
        for which, one in zip(found.query_index.tolist(), ids, strict=True):
            ids_of.setdefault(which, set()).update({one} - {NO_TRACK})
    assert sum(len(ids) == 1 for ids in ids_of.values()) >= 38  # of 40 that cross and miss frames
    assert sum(one != NO_TRACK for ids in runs[0][2:] for one in ids) > 0.97 * sum(map(len, runs[0][2:]))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("lost", -1), ("lost", math.inf), ("lost", math.nan), ("begin", 1.5), ("confirm", 0), ("weak_overlap", 2)],
)
def test_settings_that_cannot_be_are_named(setting: str, value: float) -> None:
    with pytest.raises(TrackError, match=rf"{setting} = {value}\nHint: use a value from"):
        TrackSettings(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [0, -5, math.inf, math.nan])
def test_a_rate_that_cannot_be_is_named(fps: float) -> None:
    with pytest.raises(TrackError, match="invalid frame rate of a tracked source"):
        Tracker(1, fps)


def test_a_frame_of_other_classes_is_refused() -> None:
    with pytest.raises(TrackError, match="detections of 2 classes, its tracker has 1"):
        Tracker(1, FPS).update([detections([]), detections([])])
