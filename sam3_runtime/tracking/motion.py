"""A Kalman filter for many boxes at once, each axis on its own.

The state of a box is its centre, with a nearly constant velocity, and its width and height, which change slowly: an
occluded object has the same size when it reappears. Times are in seconds, so the result does not depend on the frame
rate or on dropped frames: predicting twice equals predicting once over both times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.imaging.boxes import Boxes

MOTION = np.dtype(
    [
        ("centre", "f8", 2),  # x, y in pixels
        ("velocity", "f8", 2),  # pixels a second
        ("size", "f8", 2),  # width and height in pixels
        # Variances of the above, and the covariance of centre and velocity, of each axis.
        *((name, "f8", 2) for name in ("centre_var", "velocity_var", "covariance", "size_var")),
    ]
)
Motions = NDArray[Any]
"""N boxes in motion: a structured array [N] with the fields of ``MOTION``."""

# Standard deviations, in units of the box's own size (the root of its area, and so many pixels at least).
_LEAST_SIZE = 12.0
_MEASURED = 0.04  # of the position of a detected box
_CUT = 2.0  # of the size of a box that may be partly occluded
_FIRST_SPEED = 3.0  # sizes a second, of an object seen once
_ACCELERATION = 3.0  # change of velocity, after a second, in sizes a second
_GROWTH = 0.5  # change of width and height after a second
_DEVIATIONS, _MOST_OFFSET = 2.0, 1.0  # standard deviations, sizes


def begin(boxes: Boxes) -> Motions:
    """Return the state [N] of boxes xyxy [N, 4] that are seen for the first time: at rest."""
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


def correct(motions: Motions, boxes: Boxes) -> Motions:
    """Return ``motions`` [N] updated with the detected boxes xyxy [N, 4] of the same time.

    A box that became smaller may be occluded in part, or cut by the border. Its new size has little weight, and the
    whole box is moved as little as is needed to contain the detected one.
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
    """Return the boxes, xyxy [N, 4] in pixels."""
    half = motions["size"] / 2
    return np.concatenate([motions["centre"] - half, motions["centre"] + half], axis=1)


def stop_at_border(motions: Motions, size: tuple[int, int]) -> Motions:
    """Return ``motions`` with centres clipped to an image of ``size`` (height, width), and no velocity beyond it.

    An object that reappears does so near the position where it left the image.
    """
    after = motions.copy()
    after["centre"] = motions["centre"].clip(0, size[::-1])
    after["velocity"][after["centre"] != motions["centre"]] = 0
    return after


def uncertainty(motions: Motions) -> NDArray[np.float64]:
    """Return the possible offset of each box, [N, 2] along x and y in pixels.

    Two standard deviations, and at most the size of the box.
    """
    return np.asarray(np.minimum(_DEVIATIONS * np.sqrt(motions["centre_var"]), _MOST_OFFSET * _scale(motions)))


def _centres_and_sizes(boxes: Boxes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return (low + high) / 2, np.maximum(high - low, 1)  # a box is a pixel at least


def _scale(motions: Motions) -> NDArray[np.float64]:
    """[N, 1] the root of each box's area, in pixels, at least the smallest size."""
    return np.asarray(np.maximum(np.sqrt(motions["size"].prod(1, keepdims=True)), _LEAST_SIZE))
