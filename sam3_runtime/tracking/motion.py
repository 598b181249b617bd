"""Where boxes go: a Kalman filter for many boxes at once, each axis on its own.

A box is its centre, which keeps its velocity but for small changes, and its width and height, which wander, and shrink
slowly: what goes behind something else is as large when it comes out. Times are seconds, so that any frame rate, and
frames left out, come to the same: predicting twice is predicting once over both times. Knows numbers alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOTION = np.dtype(
    [
        ("centre", "f8", 2),  # x, y in pixels
        ("velocity", "f8", 2),  # pixels a second
        ("size", "f8", 2),  # width and height in pixels
        # Variances of the above, and the covariance of centre and velocity, of each axis.
        ("centre_var", "f8", 2),
        ("velocity_var", "f8", 2),
        ("covariance", "f8", 2),
        ("size_var", "f8", 2),
    ]
)
Motions = NDArray[Any]
"""N boxes in motion: a structured array [N] with the fields of ``MOTION``."""

# Standard deviations, in units of the box's own size (the root of its area, and so many pixels at least).
_LEAST_SIZE = 12.0
_MEASURED = 0.04  # of where detectors place a box
_CUT = 2.0  # of the size of what may be seen in part
_FIRST_SPEED = 3.0  # sizes a second, of what was seen once
_ACCELERATION = 3.0  # change of velocity, after a second, in sizes a second
_GROWTH = 0.5  # change of width and height after a second
_DOUBTS, _MOST_DOUBT = 2.0, 1.0  # standard deviations, sizes


def begin(boxes: NDArray[np.floating[Any]]) -> Motions:
    """Boxes xyxy [N, 4] seen for the first time: at rest, as far as is known."""
    motions = np.zeros(len(boxes), MOTION)
    motions["centre"], motions["size"] = _centres_and_sizes(boxes)
    motions["centre_var"] = motions["size_var"] = (_MEASURED * _scale(motions)) ** 2
    motions["velocity_var"] = (_FIRST_SPEED * _scale(motions)) ** 2
    return motions


def predict(motions: Motions, seconds: float) -> None:
    """Move ``motions`` by ``seconds``, in place."""
    change = (_ACCELERATION * _scale(motions)) ** 2
    motions["centre"] += motions["velocity"] * seconds
    motions["centre_var"] += (
        2 * motions["covariance"] * seconds + motions["velocity_var"] * seconds**2 + change * seconds**3 / 3
    )
    motions["covariance"] += motions["velocity_var"] * seconds + change * seconds**2 / 2
    motions["velocity_var"] += change * seconds
    motions["size_var"] += (_GROWTH * _scale(motions)) ** 2 * seconds


def correct(motions: Motions, boxes: NDArray[np.floating[Any]]) -> Motions:
    """``motions`` [N] after boxes xyxy [N, 4] were seen at their time.

    A box that is smaller than it was may be cut by something in front, or by the border. So its size is hardly
    believed, and its place no more than it must: the whole was moved as little as leaves the box inside.
    """
    after = motions.copy()
    centre, size = _centres_and_sizes(boxes)
    noise = np.broadcast_to((_MEASURED * _scale(motions)) ** 2, size.shape)
    grown = size - motions["size"]
    lacking = np.maximum(-grown, 0)
    size_noise = np.where(lacking > 0, (_CUT * _scale(motions)) ** 2, noise)
    gain = motions["size_var"] / (motions["size_var"] + size_noise)
    after["size"] += gain * grown
    after["size_var"] *= 1 - gain
    off = centre - motions["centre"]
    off -= off.clip(-lacking / 2, lacking / 2)
    total = motions["centre_var"] + noise
    gain, steer = motions["centre_var"] / total, motions["covariance"] / total
    after["centre"] += gain * off
    after["velocity"] += steer * off
    after["centre_var"] *= 1 - gain
    after["covariance"] *= 1 - gain
    after["velocity_var"] -= steer * motions["covariance"]
    return after


def boxes_of(motions: Motions) -> NDArray[np.float64]:
    """xyxy [N, 4] in pixels."""
    half = motions["size"] / 2
    return np.concatenate([motions["centre"] - half, motions["centre"] + half], axis=1)


def held(motions: Motions, size: tuple[int, int]) -> Motions:
    """``motions``, those stopped at the border that would leave an image of ``size`` (height, width).

    What comes back in sight does so near where it left, and not where it would be by now.
    """
    after = motions.copy()
    after["centre"] = motions["centre"].clip(0, size[::-1])
    after["velocity"][after["centre"] != motions["centre"]] = 0
    return after


def doubt(motions: Motions) -> NDArray[np.float64]:
    """How far each box may be off, [N, 2] along x and y in pixels: two standard deviations, and its own size at most.

    What is further away is something else.
    """
    return np.asarray(np.minimum(_DOUBTS * np.sqrt(motions["centre_var"]), _MOST_DOUBT * _scale(motions)))


def _centres_and_sizes(boxes: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return (low + high) / 2, np.maximum(high - low, 1)  # a box is a pixel at least


def _scale(motions: Motions) -> NDArray[np.float64]:
    """[N, 1] the root of each box's area, in pixels, and not less than what counts as the smallest."""
    return np.asarray(np.maximum(np.sqrt(motions["size"].prod(1, keepdims=True)), _LEAST_SIZE))
