"""Assigns track ids to detections: the same object has the same id in every frame.

Frame by frame, as in ByteTrack: tracks are moved to the frame's time by a Kalman filter (``motion``), compared with the
detections of their class by boxes and masks (``overlap``), and paired at the largest total similarity (``assignment``):
confident detections first, then weak ones, which extend a track and start none.

Alternatives (as of November 2026): ``trackers`` (successor of supervision's ByteTrack; Apache-2.0, maintained) compares
boxes alone unless it runs its own segmentation model, tracks one class, and requires opencv-python, which overwrites
opencv-python-headless, with SciPy, PyAV, Matplotlib and NumPy 2. ``norfair`` (BSD-3; the fork ``norfair-enough`` is
maintained) accepts our distance, but pairs greedily, counts frames instead of seconds, and needs SciPy. ``motpy`` is
unmaintained since 2021, ``boxmot`` is AGPL and needs PyTorch. None of them uses the masks that are available here.
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
"""The id of a detection without a track, or whose track is not confirmed yet."""
_TRACK = np.dtype(
    [
        ("id", "i8"),  # NO_TRACK until it is confirmed
        ("sightings", "i8"),
        ("seen", "f8"),  # the last time, in seconds
        ("motion", motion.MOTION),
        ("silhouette", "?", (overlap.SIDE, overlap.SIDE)),  # at that time
    ]
)
_Tracks = NDArray[Any]
"""N tracks of one class: a structured array [N] with the fields of ``_TRACK``."""
_FRAMES_SLACK = 1.5  # a track is not lost before the next frame was due
_SLIVER = (
    1 / 3
)  # lower overlap threshold for unclaimed detections: an object that leaves an occlusion is partly visible
_LIMITS = {"lost": (0, 3600), "begin": (0, 1), "confirm": (1, 1000), "overlap": (0, 1), "weak_overlap": (0, 1)}


class TrackError(Sam3Error):
    """An invalid track setting, or detections of another number of classes than the tracker has."""


@dataclass(frozen=True)
class TrackSettings:
    """How detections become tracks. Raises :class:`TrackError` for a value out of range.

    ``lost`` is the time in seconds after which an unseen track ends. ``begin`` is the least score of a detection that
    starts a track, and ``confirm`` the number of consecutive frames after which the track gets an id. A detection
    extends a track if it overlaps the predicted position by at least ``overlap`` (intersection over union, 0 to 1), or
    by ``weak_overlap`` if its score is below ``begin``.
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
                raise TrackError(f"invalid track setting {name} = {value}", f"use a value from {least} to {most}")


class Tracker:
    """The tracks of one source, of several classes. Not thread-safe.

    ``classes`` is the number of :class:`Detections` of each frame; ``fps``, in frames a second, is used where
    :meth:`update` gets no time. Ids count from 1 over all classes and are never reused. Raises :class:`TrackError` for
    a rate that is not a positive number.
    """

    def __init__(self, classes: int, fps: float, settings: TrackSettings | None = None) -> None:
        if not 0 < fps < math.inf:
            raise TrackError(f"invalid frame rate of a tracked source: {fps}", "use the source's frames a second")
        self.fps, self.settings = fps, settings or TrackSettings()
        self.ids_given = 0
        """Number of confirmed tracks so far."""
        self._before = self._now = 0.0  # times of the last two frames
        self._tracks = [np.zeros(0, _TRACK) for _ in range(classes)]

    def update(self, detections: Sequence[Detections], seconds: float | None = None) -> list[NDArray[np.int64]]:
        """Process the next frame's detections, one :class:`Detections` a class, the classes always in the same order.

        ``seconds`` is the frame's time in its source, which accounts for dropped frames; the default is one frame after
        the last. If time goes back, the source has restarted: all tracks end. Returns for each class the track id of
        every detection, int64 [K], :data:`NO_TRACK` where it has none. Raises :class:`TrackError` for another number of
        classes than the tracker has.
        """
        if len(detections) != len(self._tracks):
            raise TrackError(
                f"a frame has detections of {counted(len(detections), 'class')}, its tracker has {len(self._tracks)}",
                "create one tracker for each source, and pass every class of every frame",
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
        tracks["motion"][lost] = motion.stop_at_border(tracks["motion"][lost], found.size)
        fresh = _new_tracks(found, rows, self._now)
        sure = found.scores[rows] >= self.settings.begin
        track, row = self._pair(tracks, fresh, sure)
        fresh[row] = _extended(tracks[track], fresh[row])
        alive = sure  # a weak detection extends a track, and starts none
        alive[row] = True
        self._confirm(fresh, alive)
        ids[rows] = fresh["id"]
        unseen = np.delete(tracks, track)
        self._tracks[number] = np.concatenate([unseen[unseen["id"] != NO_TRACK], fresh[alive]])
        return ids

    def _confirm(self, fresh: _Tracks, alive: NDArray[np.bool_]) -> None:
        """Set the ids of tracks that are seen often enough, the best first, in place."""
        due = np.flatnonzero(alive & (fresh["id"] == NO_TRACK) & (fresh["sightings"] >= self.settings.confirm))
        fresh["id"][due] = self.ids_given + 1 + np.arange(len(due))
        self.ids_given += len(due)

    def _pair(self, tracks: _Tracks, fresh: _Tracks, sure: NDArray[np.bool_]) -> Pairs:
        """Pair ``tracks`` [N] with ``fresh`` [K]: indices of both."""
        similarity = _similarity(tracks, fresh)
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
            allowed = among[:, None] & candidates & (similarity >= least)
            pairs.append(assign(np.where(allowed, similarity, 0)))
            similarity[pairs[-1][0]] = similarity[:, pairs[-1][1]] = 0
        first, second = zip(*pairs, strict=True)
        return np.concatenate(first), np.concatenate(second)


def _new_tracks(found: Detections, rows: NDArray[np.intp], now: float) -> _Tracks:
    """Return the detections at ``rows`` [K] as new tracks [K]."""
    fresh = np.zeros(len(rows), _TRACK)
    fresh["id"], fresh["sightings"], fresh["seen"] = NO_TRACK, 1, now
    fresh["motion"] = motion.begin(found.boxes[rows])
    fresh["silhouette"] = overlap.silhouettes(found.stored_masks, rows, motion.boxes_of(fresh["motion"]))
    return fresh


def _extended(tracks: _Tracks, fresh: _Tracks) -> _Tracks:
    """``tracks`` [N] after their detection as ``fresh`` [N]."""
    after = fresh.copy()
    after["id"], after["sightings"] = tracks["id"], tracks["sightings"] + 1
    after["motion"] = motion.correct(tracks["motion"], motion.boxes_of(fresh["motion"]))
    unmasked = ~fresh["silhouette"].any((1, 2))
    after["silhouette"][unmasked] = tracks["silhouette"][unmasked]
    return after


def _similarity(tracks: _Tracks, fresh: _Tracks) -> NDArray[np.float64]:
    """Similarity of each of ``tracks`` with each of ``fresh``: [N, K], 0 to 1.

    The mean of the overlaps of boxes and masks, or that of boxes alone where a mask is empty. Boxes are grown by the
    uncertainty of the track's position, so an object is found after an occlusion, or a jump by its own size.
    """
    predicted, boxes = motion.boxes_of(tracks["motion"]), motion.boxes_of(fresh["motion"])
    similarity = overlap.box_overlaps(predicted, boxes, motion.uncertainty(tracks["motion"]))
    track, row = np.nonzero(similarity)
    masks = overlap.mask_overlaps(tracks["silhouette"][track], predicted[track], fresh["silhouette"][row], boxes[row])
    both = (similarity[track, row] + masks) / 2
    similarity[track, row] = np.where(np.isnan(masks), similarity[track, row], both)
    return similarity
