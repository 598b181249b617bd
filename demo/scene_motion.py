"""Moves the objects of a layout: some bounce within the image, others enter, cross and leave it.

Each position is computed from the time alone, so that frames are independent. No image is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.scene_layouts import Layout, sample_layout

_LEAST_THINGS = 4
_CROSSING_SHARE = 0.4  # of the objects
_SPEED = (0.1, 0.5)  # of the image's shorter side, a second
_SPIN = 1.0  # radians a second at most, either way


def moving_layouts(rng: np.random.Generator, frames: int, size: tuple[int, int], fps: float) -> Iterator[Layout]:
    """Yield the layouts of a video's frames. Each contains every object of the video, also those outside the image."""
    first = sample_layout(rng, size)
    while len(first.things) < _LEAST_THINGS:
        first = sample_layout(rng, size)
    count = len(first.things)
    heading = rng.uniform(0, 2 * math.pi, count)
    speed = rng.uniform(*_SPEED, count) * min(size)
    velocity = np.stack([np.cos(heading), np.sin(heading)], 1) * speed[:, None]
    spin = rng.uniform(-_SPIN, _SPIN, count)
    crosses = rng.random(count) < _CROSSING_SHARE
    halfway = rng.uniform(0, frames / fps, count) * crosses  # when a crossing object is at its position in the layout
    for frame in range(frames):
        elapsed = frame / fps - halfway
        things = first.things.copy()
        things["angle"] += (spin * elapsed).astype(np.float32)
        moved = things["centre"] + velocity * elapsed[:, None]
        things["centre"] = np.where(crosses[:, None], moved, _bounced(moved, things["scale"], size))
        light = first.light.copy()
        light["offset"] = rng.integers(1 << 16, size=2)  # noise is new in every frame
        yield replace(first, things=things, light=light)


def _bounced(centre: NDArray[Any], scale: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """``centre`` [T, 2] folded back so that objects, whose radius is about ``scale`` [T], stay in the image."""
    room = np.maximum(np.array(size[::-1]) - 2 * scale[:, None], 1)
    return np.asarray(scale[:, None] + room - abs((centre - scale[:, None]) % (2 * room) - room))
