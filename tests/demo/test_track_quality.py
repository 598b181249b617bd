"""Measuring tracks: scores known by hand, damage, and the tracker on discs that cross (nothing is rendered)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from demo.scenes import SHAPES, Scene, Thing
from demo.track_quality import GRADES, Damager, Record, of_one_class, scores, table, tracked
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.tracking.tracker import Tracker

SIZE = (120, 160)
FPS = 25.0
EXACT = ("HOTA", "DetA", "AssA", "IDF1", "MOTA")


def disc(x: float, y: float, identity: int, shape: str = "circle") -> Thing:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < 100
    return Thing(shape, "red", identity, np.array([x - 10, y - 10, x + 10, y + 10], np.float32), mask)


def crossing(frames: int = 60) -> Iterator[Scene]:
    """Two circles that cross, and a star below them."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for frame in range(frames):
        things = disc(20 + 2 * frame, 40, 7), disc(140 - 2 * frame, 52, 3), disc(20 + 2 * frame, 100, 5, "star")
        yield Scene(image, things)


def found(thing: Thing) -> Detections:
    return Detections("circle", 0, thing.box[None], np.ones(1, np.float32), thing.mask[None], np.zeros(1, np.int64))


def recorded(ids: list[int | None]) -> Record:
    """One thing, in as many frames, with these ids; not tracked where there is none."""
    record = Record()
    for one in ids:
        thing = disc(60, 60, 7)
        record.add([thing], found(thing), np.array([-1 if one is None else one]))
    return record


@pytest.mark.parametrize(
    ("ids", "idf1", "mota", "switches"),
    [
        ([4] * 10, 1.0, 1.0, 0),
        ([4] * 5 + [9] * 5, 0.5, 0.9, 1),
        ([4] * 4 + [None] * 2 + [4] * 4, 16 / 18, 0.8, 0),
        ([None] * 10, 0.0, 0.0, 0),
    ],
)
def test_scores_of_one_thing(ids: list[int | None], idf1: float, mota: float, switches: int) -> None:
    pytest.importorskip("trackeval")
    got = scores([recorded(ids)])
    assert (got["IDF1"], got["MOTA"]) == pytest.approx((idf1, mota), abs=1e-3)
    assert (got["things"], got["switches"]) == (1, switches)


def test_records_are_scored_together() -> None:
    pytest.importorskip("trackeval")
    got = scores([recorded([1] * 10), recorded([1] * 5 + [2] * 5), Record()])
    assert (got["IDF1"], got["MOTA"], got["things"]) == (0.75, 0.95, 2)


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes alone"])
def test_the_truth_is_tracked_from_the_second_frame_on(masks: bool) -> None:
    pytest.importorskip("trackeval")
    records = tracked(crossing(), Damager(GRADES["truth"], 0, FPS), Tracker(len(SHAPES), FPS), masks)
    got = scores(records)
    assert (got["things"], got["switches"]) == (3, 0)
    assert all(got[name] > 0.97 for name in EXACT), got


def test_damage_costs_something_and_not_the_identities() -> None:
    pytest.importorskip("trackeval")
    records = []
    for seed in range(3):
        records += tracked(crossing(), Damager(GRADES["hard"], seed, FPS), Tracker(len(SHAPES), FPS))
    got = scores(records)
    assert 0.4 < got["MOTA"] < 0.95
    assert got["IDF1"] > 0.75


def test_damage_is_the_same_each_time_and_as_large_as_it_says() -> None:
    scenes = list(crossing()) * 10
    runs = [[found for scene in scenes for found in damager(scene)] for damager in (hard(), hard())]
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.masks, other.masks)
    alarms = sum(len(one) for one in runs[0] if one.prompt not in ("circle", "star"))
    assert alarms == pytest.approx(0.1 * 6 * len(scenes), rel=0.25)
    stars = sum(len(one) for one in runs[0] if one.prompt == "star")
    assert stars == pytest.approx((0.9 * 0.93 + 0.1) * len(scenes), rel=0.1)  # not missed, not hidden; alarms


def hard() -> Damager:
    return Damager(GRADES["hard"], 3, FPS)


def test_no_damage_is_the_truth() -> None:
    scene = next(crossing())
    circles, *_ = Damager(GRADES["truth"], 0, FPS)(scene)
    assert circles.prompt == "circle"
    order = np.argsort([thing.box[0] for thing in scene.things[:2]])
    assert np.array_equal(np.sort(circles.boxes[:, 0]), [scene.things[index].box[0] for index in order])
    assert (circles.scores >= 0.5).all()


def test_one_class_holds_everything() -> None:
    assert {thing.shape for thing in of_one_class(next(crossing())).things} == {SHAPES[0]}


def test_the_document_says_what_was_measured(project: Path) -> None:
    measured = json.loads((project / "docs/results/tracks.json").read_text())
    assert table(measured["scores"]) in (project / "docs/tracks.md").read_text()


def test_a_setting_that_cannot_be_is_one_message(project: Path) -> None:
    command = [sys.executable, "-m", "demo.track_quality", "--lost", "-1"]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "Error: invalid track setting lost = -1.0\nHint: use a value from 0 to 3600\n"
