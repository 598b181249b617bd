"""Gives detections an identity through time: which of them are one thing, seen again.

Frame by frame, as ByteTrack does it: tracks are moved to the frame's time by a Kalman filter (``motion``), compared
with the detections of their class by boxes and masks (``overlap``), and paired so that the whole fits best
(``assignment``); sure detections first, then weak ones, which keep a track alive and begin none. Knows no image.

Why it is our own. Of the libraries that there are (looked at in November 2026), ``trackers`` (which supervision's
ByteTrack has moved to; Apache-2.0, well kept) compares boxes alone unless it runs a segmentation model of its own. It
tracks one class, and requires opencv-python, which overwrites our opencv-python-headless, with SciPy, PyAV, Matplotlib
and NumPy 2. ``norfair`` (BSD-3; its fork ``norfair-enough`` is kept) would take a distance of ours, but pairs greedily,
counts in frames and not in seconds, and needs SciPy. ``motpy`` has rested since 2021, ``boxmot`` is AGPL and needs
PyTorch. None of them looks at the masks that are here already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.tracking import motion, overlap
from sam3_runtime.tracking.assignment import Pairs, assign

NO_TRACK = -1
"""The id of a detection that belongs to no track, or to one that is not confirmed yet."""
_TRACK = np.dtype(
    [
        ("id", "i8"),  # NO_TRACK until it is confirmed
        ("sightings", "i8"),
        ("seen", "f8"),  # when last, in seconds
        ("motion", motion.MOTION),
        ("silhouette", "?", (overlap.SIDE, overlap.SIDE)),  # when last seen
    ]
)
_Tracks = NDArray[Any]
"""N tracks of one class: a structured array [N] with the fields of ``_TRACK``."""
_FRAMES_SLACK = 1.5  # a track is not lost before the next frame was due
_SLIVER = 1 / 3  # of the overlap is enough where nothing else claims a detection: a thing comes out bit by bit
_LIMITS = {"lost": (0, 3600), "begin": (0, 1), "confirm": (1, 1000), "overlap": (0, 1), "weak_overlap": (0, 1)}


class TrackError(Sam3Error):
    """A setting of tracks that cannot be, or detections of other classes than the tracker was made for."""


@dataclass(frozen=True)
class TrackSettings:
    """How detections become tracks. :class:`TrackError` for a value that cannot be.

    ``lost`` is for how many seconds a track lives out of sight, and may be found again. ``begin`` is the least score
    of a detection that begins a track, and ``confirm`` in how many frames on end it must be seen to get an id. A
    detection goes on with a track when it overlaps the track's place (0 to 1, intersection over union) by ``overlap``
    at least, or, with a score below ``begin``, by ``weak_overlap``.
    """

    lost: float = 1.5
    begin: float = 0.5
    confirm: int = 2
    overlap: float = 0.15
    weak_overlap: float = 0.4

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:  # which NaN is not
                raise TrackError(f"tracks cannot have {name} = {value}", f"it can be from {least} to {most}")


class Tracker:
    """The tracks of one source, of several classes. Not for several threads at once.

    ``classes`` is how many :class:`Detections` each frame has; ``fps``, the frames a second, tells the time where
    :meth:`update` is not told it. Ids count from 1, over all classes, and none is given twice.
    """

    def __init__(self, classes: int, fps: float, settings: TrackSettings | None = None) -> None:
        if not 0 < fps < math.inf:
            raise TrackError(f"a source of {fps} frames a second cannot be tracked", "give the rate of its frames")
        self.fps, self.settings = fps, settings or TrackSettings()
        self.ids_given = 0
        """How many tracks there were so far, unconfirmed ones not counted."""
        self._before = self._now = 0.0  # when the last two frames were
        self._tracks = [np.zeros(0, _TRACK) for _ in range(classes)]

    def update(self, detections: Sequence[Detections], seconds: float | None = None) -> list[NDArray[np.int64]]:
        """Take in the next frame's detections, one :class:`Detections` a class, the classes always in the same order.

        ``seconds`` is the frame's time in its source, which makes up for frames that were dropped; a frame's length
        after the one before where it is left out. Time that goes back is a source that begins anew: no track outlives
        it. Returns for each class the id of every detection's track, int64 [K], :data:`NO_TRACK` where there is none.
        """
        if len(detections) != len(self._tracks):
            raise TrackError(
                f"a frame has detections of {counted(len(detections), 'class')}, and its tracker was made for "
                f"{len(self._tracks)}",
                "make one tracker for each source, and give it every class of every frame",
            )
        self._before, self._now = self._now, self._now + 1 / self.fps if seconds is None else seconds
        oldest = self._now - self.settings.lost - _FRAMES_SLACK / self.fps
        if self._now < self._before:
            oldest = math.inf
        self._tracks = [tracks[tracks["seen"] >= oldest] for tracks in self._tracks]
        return [self._update_class(number, found) for number, found in enumerate(detections)]

    def _update_class(self, number: int, found: Detections) -> NDArray[np.int64]:
        tracks = self._tracks[number]
        ids = np.full(len(found), NO_TRACK, np.int64)
        rows = np.flatnonzero(np.isfinite(found.boxes).all(1))
        if not (len(tracks) or len(rows)):
            return ids
        motion.predict(tracks["motion"], self._now - self._before)
        lost = tracks["seen"] < self._before
        tracks["motion"][lost] = motion.held(tracks["motion"][lost], found.size)
        fresh = _begun(found, rows, self._now)
        sure = found.scores[rows] >= self.settings.begin
        track, row = self._pair(tracks, fresh, sure)
        fresh[row] = _continued(tracks[track], fresh[row])
        alive = sure  # a weak detection goes on with a track, and begins none
        alive[row] = True
        self._confirm(fresh, alive)
        ids[rows] = fresh["id"]
        unseen = np.delete(tracks, track)
        self._tracks[number] = np.concatenate([unseen[unseen["id"] != NO_TRACK], fresh[alive]])
        return ids

    def _confirm(self, fresh: _Tracks, alive: NDArray[np.bool_]) -> None:
        """Give ids to those that are due, the best first, in place."""
        due = np.flatnonzero(alive & (fresh["id"] == NO_TRACK) & (fresh["sightings"] >= self.settings.confirm))
        fresh["id"][due] = self.ids_given + 1 + np.arange(len(due))
        self.ids_given += len(due)

    def _pair(self, tracks: _Tracks, fresh: _Tracks, sure: NDArray[np.bool_]) -> Pairs:
        """Which of ``tracks`` [N] goes on with which of ``fresh`` [K]: indices of both."""
        worth = _worth(tracks, fresh)
        confirmed = tracks["id"] != NO_TRACK
        just_seen = tracks["seen"] == self._before
        settings = self.settings
        pairs = [(np.zeros(0, np.intp), np.zeros(0, np.intp))]
        for among, candidates, least in (
            (confirmed, sure, settings.overlap),
            (~confirmed, sure, settings.overlap),
            (confirmed & just_seen, ~sure, settings.weak_overlap),
            (confirmed, sure, settings.overlap * _SLIVER),
        ):
            allowed = among[:, None] & candidates & (worth >= least)
            pairs.append(assign(np.where(allowed, worth, 0)))
            worth[pairs[-1][0]] = worth[:, pairs[-1][1]] = 0
        first, second = zip(*pairs, strict=True)
        return np.concatenate(first), np.concatenate(second)


def _begun(found: Detections, rows: NDArray[np.intp], now: float) -> _Tracks:
    """Every one of these detections as a track that begins."""
    fresh = np.zeros(len(rows), _TRACK)
    fresh["id"], fresh["sightings"], fresh["seen"] = NO_TRACK, 1, now
    fresh["motion"] = motion.begin(found.boxes[rows])
    fresh["silhouette"] = overlap.silhouettes(found.stored_masks, rows, motion.boxes_of(fresh["motion"]))
    return fresh


def _continued(tracks: _Tracks, fresh: _Tracks) -> _Tracks:
    """``tracks`` [N] after they were seen as ``fresh`` [N]."""
    after = fresh.copy()
    after["id"], after["sightings"] = tracks["id"], tracks["sightings"] + 1
    after["motion"] = motion.correct(tracks["motion"], motion.boxes_of(fresh["motion"]))
    unmasked = ~fresh["silhouette"].any((1, 2))
    after["silhouette"][unmasked] = tracks["silhouette"][unmasked]
    return after


def _worth(tracks: _Tracks, fresh: _Tracks) -> NDArray[np.float64]:
    """How well each of ``tracks`` goes on with each of ``fresh``: [N, K], 0 (not at all) to 1.

    The mean of how boxes and masks overlap, or of boxes alone where a mask is empty. Boxes are taken larger by what is
    in doubt about the track's place, so that what was out of sight, or jumps by its own size, is found.
    """
    places, boxes = motion.boxes_of(tracks["motion"]), motion.boxes_of(fresh["motion"])
    worth = overlap.box_overlaps(places, boxes, motion.doubt(tracks["motion"]))
    track, row = np.nonzero(worth)
    masks = overlap.mask_overlaps(tracks["silhouette"][track], places[track], fresh["silhouette"][row], boxes[row])
    worth[track, row] = np.where(np.isnan(masks), worth[track, row], (worth[track, row] + masks) / 2)
    return worth
