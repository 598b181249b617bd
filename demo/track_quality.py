"""Measures how well objects keep their identity: HOTA, IDF1 and MOTA of the runtime's tracker on the demo's videos.

    python -m demo.track_quality                      on the ground truth, degraded like detections
    python -m demo.track_quality --engines FOLDER     on detections of a variant's engines

The classes are the shapes ("circle", "star" ...), so that objects of one class, in all colours, cross each other.
Detections are matched to the ground truth by the overlap of their masks. TrackEval computes the metrics; install it
with ``pip install --no-deps trackeval`` (of its dependencies only SciPy is needed here, and some would overwrite
OpenCV).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.scenes import HELD_OUT, SHAPES, Scene, Thing, video
from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.core.files import write_atomically
from sam3_runtime.deploy.loading import load
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.report.tables import grid
from sam3_runtime.tracking.tracker import NO_TRACK, Tracker, TrackSettings

_DAMAGE = 4  # first word of the seeds of damage
Detect = Callable[[Scene], list[Detections]]
"""Returns the detections of a frame, one :class:`Detections` for each of ``SHAPES``."""
Found = tuple[NDArray[Any], float, NDArray[np.bool_]]
"""Box, score and mask of one detection."""
Scores = dict[str, float]


@dataclass(frozen=True)
class Damage:
    """Errors of a simulated detector. Shares are from 0 to 1, of objects and frames."""

    missed: float = 0.0  # not found in a frame
    hidden: float = 0.0  # not found for a third of a second
    jitter: float = 0.0  # standard deviation of each side of a box, in sizes of the box
    cut: float = 0.0  # masks that lack a side, up to half of the object
    alarms: float = 0.0  # false alarms per class and frame
    weak: float = 0.0  # found with a score that starts no track


GRADES = {
    "truth": Damage(),
    "mild": Damage(missed=0.03, hidden=0.02, jitter=0.02, cut=0.05, alarms=0.02, weak=0.05),
    "hard": Damage(missed=0.10, hidden=0.08, jitter=0.05, cut=0.20, alarms=0.10, weak=0.20),
}


class Damager:
    """Returns the true objects of one video with simulated errors; call it with the frames in order. Seeded."""

    def __init__(self, damage: Damage, seed: int, fps: float) -> None:
        self.damage, self.rng = damage, np.random.default_rng([_DAMAGE, seed])
        self.frames_hidden = max(1, round(fps / 3))
        self.hidden: dict[int, int] = {}  # remaining frames, by identity

    def __call__(self, scene: Scene) -> list[Detections]:
        found: list[list[Found]] = [[] for _ in SHAPES]
        for thing in scene.things:
            if not self._is_missed(thing.identity):
                found[SHAPES.index(thing.shape)].append(self._damaged(thing))
        size = scene.image.shape[:2]
        for one in found:
            one += [self._alarm(size) for _ in range(self.rng.poisson(self.damage.alarms))]
        return [_detections(number, one, size) for number, one in enumerate(found)]

    def _is_missed(self, identity: int) -> bool:
        left = self.hidden.get(identity, 0)
        if not left and self.rng.random() < self.damage.hidden / self.frames_hidden:
            left = self.frames_hidden
        self.hidden[identity] = max(0, left - 1)
        return left > 0 or self.rng.random() < self.damage.missed

    def _damaged(self, thing: Thing) -> Found:
        box, mask = thing.box.astype(np.float64), thing.mask
        side = np.sqrt((box[2:] - box[:2]).prod())
        if self.rng.random() < self.damage.cut:
            share = self.rng.uniform(0.1, 0.5)
            low, high = box[0] + share * (box[2] - box[0]), box[2] - share * (box[2] - box[0])
            columns = np.arange(mask.shape[1])
            mask = mask & ((columns >= low) if self.rng.random() < 0.5 else (columns < high))
        box = box + self.rng.normal(0, self.damage.jitter * side, 4)
        weak = self.rng.random() < self.damage.weak
        return box, float(self.rng.uniform(0.3, 0.5) if weak else self.rng.uniform(0.5, 1)), mask

    def _alarm(self, size: tuple[int, ...]) -> Found:
        height, width = size
        extent = self.rng.uniform(0.05, 0.3, 2) * min(size)
        low = self.rng.uniform(0, np.array([width, height]) - extent)
        mask = np.zeros((height, width), np.bool_)
        x0, y0, x1, y1 = np.concatenate([low, low + extent]).astype(int)
        mask[y0:y1, x0:x1] = True
        return np.concatenate([low, low + extent]), float(self.rng.uniform(0.3, 0.8)), mask


def _detections(number: int, found: Sequence[Found], size: tuple[int, ...]) -> Detections:
    """Best first, as an engine's."""
    best_first = sorted(found, key=lambda one: -one[1])
    boxes = np.array([box for box, _, _ in best_first], np.float32).reshape(-1, 4)
    masks = np.array([mask for _, _, mask in best_first], np.bool_).reshape(-1, *size)
    scores = np.array([score for _, score, _ in best_first], np.float32)
    return Detections(SHAPES[number], number, boxes, scores, masks, np.arange(len(scores)))


# --- measuring --------------------------------------------------------------------------------------------------------


class Record:
    """One class of one video, in TrackEval's form: true and tracked objects, frame by frame."""

    def __init__(self) -> None:
        self._true: dict[int, int] = {}
        self._tracked: dict[int, int] = {}
        self._true_ids: list[NDArray[np.intp]] = []
        self._tracked_ids: list[NDArray[np.intp]] = []
        self._overlaps: list[NDArray[np.float64]] = []

    def add(self, things: Sequence[Thing], found: Detections, ids: NDArray[np.int64]) -> None:
        rows = np.flatnonzero(ids != NO_TRACK)
        self._overlaps.append(_overlaps([thing.mask for thing in things], found.masks[rows]))
        self._true_ids.append(_counted(self._true, [thing.identity for thing in things]))
        self._tracked_ids.append(_counted(self._tracked, ids[rows].tolist()))

    def data(self) -> dict[str, Any]:
        return {
            "gt_ids": self._true_ids,
            "tracker_ids": self._tracked_ids,
            "similarity_scores": self._overlaps,
            "num_gt_dets": sum(map(len, self._true_ids)),
            "num_tracker_dets": sum(map(len, self._tracked_ids)),
            "num_gt_ids": len(self._true),
            "num_tracker_ids": len(self._tracked),
            "num_timesteps": len(self._true_ids),
        }


def _counted(known: dict[int, int], identities: Sequence[int]) -> NDArray[np.intp]:
    """Number identities from 0 in the order of their appearance."""
    return np.array([known.setdefault(one, len(known)) for one in identities], np.intp)


def _overlaps(first: Sequence[NDArray[np.bool_]], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the intersection over union of N masks with masks [M, H, W]: [N, M]."""
    if not (len(first) and len(second)):
        return np.zeros((len(first), len(second)))
    one, other = (np.asarray(masks, np.float32).reshape(len(masks), -1) for masks in (first, second))
    both = (one @ other.T).astype(np.float64)
    either = one.sum(1)[:, None] + other.sum(1) - both
    return np.asarray(np.divide(both, either, out=np.zeros_like(both), where=either > 0))


def tracked(scenes: Iterable[Scene], detect: Detect, tracker: Tracker, masks: bool = True) -> list[Record]:
    """Track one video; return one record per class. Without ``masks`` the tracker gets boxes alone."""
    records = [Record() for _ in SHAPES]
    for scene in scenes:
        found = detect(scene)
        shown = found if masks else [replace(one, stored_masks=np.zeros_like(one.masks)) for one in found]
        for shape, record, one, ids in zip(SHAPES, records, found, tracker.update(shown), strict=True):
            record.add([thing for thing in scene.things if thing.shape == shape], one, ids)
    return records


def scores(records: Sequence[Record]) -> Scores:
    """Return HOTA, DetA, AssA, IDF1 and MOTA of all records (1 is best), and the numbers of objects and switches."""
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError:
        raise Sam3Error("TrackEval is not installed here", "pip install --no-deps trackeval") from None
    quiet = {"PRINT_CONFIG": False}
    data = [record.data() for record in records]
    found: dict[str, Any] = {}
    for metric in (HOTA(), CLEAR(quiet), Identity(quiet)):
        found |= metric.combine_sequences({str(number): metric.eval_sequence(one) for number, one in enumerate(data)})
    shares = {name: round(float(np.mean(found[name])), 3) for name in ("HOTA", "DetA", "AssA", "IDF1", "MOTA")}
    return {**shares, "things": sum(one["num_gt_ids"] for one in data), "switches": int(found["IDSW"])}


def of_one_class(scene: Scene) -> Scene:
    """Return the scene with all objects in one class, the first shape, which is harder to track."""
    return replace(scene, things=tuple(replace(thing, shape=SHAPES[0]) for thing in scene.things))


def measure_damaged(videos: Sequence[Sequence[Scene]], fps: float, settings: TrackSettings) -> dict[str, Scores]:
    """Measure each grade of damage: by classes; with all objects in one class; and the latter by boxes alone."""
    ways: dict[str, tuple[Callable[[Scene], Scene], bool]] = {
        "by shape": (lambda scene: scene, True),
        "one class": (of_one_class, True),
        "one class, boxes alone": (of_one_class, False),
    }
    rows = {}
    for way, (seen, masks) in ways.items():
        for grade, damage in GRADES.items():
            records: list[Record] = []
            for number, scenes in enumerate(videos):
                tracker = Tracker(len(SHAPES), fps, settings)
                records += tracked(map(seen, scenes), Damager(damage, number, fps), tracker, masks)
            rows[f"{grade}, {way}"] = scores(records)
    return rows


def measure_engines(
    engines: Path, videos: Sequence[Sequence[Scene]], fps: float, settings: TrackSettings
) -> dict[str, Scores]:
    """Measure the detections of a variant's engines, prompted with the shapes."""
    records: list[Record] = []
    with load(engines) as pipeline:
        for scenes in videos:
            tracker = Tracker(len(SHAPES), fps, settings)
            records += tracked(scenes, lambda scene: pipeline.detect([scene.image], SHAPES)[0], tracker)
    return {engines.name: scores(records)}


def table(rows: Mapping[str, Scores]) -> str:
    """Return the scores as a Markdown table, one line each."""
    return grid([{"detections": name, **row} for name, row in rows.items()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, help="a variant's folder; by default the ground truth is degraded")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=150, help="of each video")
    parser.add_argument("--seed", type=int, default=HELD_OUT + 100, help="of the first video; the next ones follow")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--lost", type=float, default=TrackSettings.lost, help="seconds until an unseen track ends")
    parser.add_argument("--output", type=Path, help="also write the scores as JSON")
    given = parser.parse_args()
    try:
        settings = TrackSettings(lost=given.lost)
        seeds = range(given.seed, given.seed + given.videos)
        videos = [list(video(seed, given.frames, fps=given.fps)) for seed in seeds]
        if given.engines:
            rows = measure_engines(given.engines, videos, given.fps, settings)
        else:
            rows = measure_damaged(videos, given.fps, settings)
        print(table(rows))
        if given.output:
            measured = {"videos": given.videos, "frames": given.frames, "fps": given.fps, "seed": given.seed}
            write_atomically(given.output, json.dumps({**measured, "scores": rows}, indent=1).encode())
    except Sam3Error as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
