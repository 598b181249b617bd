"""Samples the backgrounds ("grounds") of scenes: photographs that scikit-image ships, plain colours, smooth gradients.

A ground is one row of ``GROUND``: numbers only, which ``scene_render`` draws. This module samples it at random, and
computes its coarse colour at given points, so that layouts contain no object of the colour behind it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam3_runtime.media.sources import load_image

PHOTOGRAPHS: tuple[str, ...] = tuple(
    f"package:skimage/data/{name}"
    for name in (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "rocket.jpg",
    )
)
PHOTOGRAPH_SIDE = 512
PATCHES = 4  # a smooth ground is a grid of this many colours a side, interpolated

GROUND = np.dtype(
    [
        ("photograph", "i4"),  # index into PHOTOGRAPHS, -1: none
        ("crop", "f4", (2, 3)),  # image (x, y, 1), from -1 to 1, to photograph (x, y), from -1 to 1
        ("mix", "f4", (3, 3)),  # the photograph's RGB to the ground's RGB ...
        ("bias", "f4", 3),  # ... plus this
        ("patches", "f4", (3, PATCHES, PATCHES)),  # RGB, 0 to 255, of a smooth ground
    ]
)
_COARSE = 32


@cache
def photographs() -> NDArray[np.uint8]:
    """uint8 [photographs, 512, 512, 3] RGB, resized to squares; ``SourceError`` if scikit-image is missing."""
    side = (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE)
    return np.stack([cv2.resize(load_image(name), side, interpolation=cv2.INTER_AREA) for name in PHOTOGRAPHS])


@cache
def _coarse_photographs() -> NDArray[np.float32]:
    """float32 [photographs, 32, 32, 3]: mean colours."""
    cell = PHOTOGRAPH_SIDE // _COARSE
    cells = photographs().reshape(-1, _COARSE, cell, _COARSE, cell, 3)
    return np.asarray(cells.mean((2, 4)), np.float32)


def sample_ground(rng: np.random.Generator) -> NDArray[Any]:
    """Sample a ground, a scalar array of ``GROUND``: half photographs, a quarter plain, a quarter smooth."""
    ground = np.zeros((), GROUND)
    ground["photograph"] = -1
    kind = rng.random()
    if kind < 0.5:
        ground["photograph"] = rng.integers(len(PHOTOGRAPHS))
        ground["crop"] = _sample_crop(rng)
        contrast = rng.uniform(0.5, 1)
        channels = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
        ground["mix"] = contrast * np.eye(3)[channels]
        ground["bias"] = (1 - contrast) * rng.uniform(30, 225)
    elif kind < 0.75:
        ground["patches"] = rng.uniform(15, 240, 3)[:, None, None]
    else:
        spread = rng.uniform(20, 110)
        wander = rng.uniform(-spread, spread, (3, PATCHES, PATCHES))
        ground["patches"] = (rng.uniform(40, 215, 3)[:, None, None] + wander).clip(0, 255)
    return ground


def _sample_crop(rng: np.random.Generator) -> NDArray[np.float32]:
    """Sample a square of 40 to 100 % of the photograph's side, randomly mirrored and rotated by multiples of 90°."""
    share = rng.uniform(0.4, 1)
    turn = rng.integers(4) * (math.pi / 2)
    mirror = rng.choice((-1, 1))
    cos, sin = round(math.cos(turn)) * share, round(math.sin(turn)) * share
    x, y = rng.uniform(share - 1, 1 - share, 2)
    return np.array([[cos * mirror, -sin, x], [sin * mirror, cos, y]], np.float32)


def coarse_colours(ground: NDArray[Any], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the ground's RGB [..., 3], 0 to 255, around ``points`` [..., 2] (x, y, from 0 to 1 over the image)."""
    if ground["photograph"] < 0:
        x, y = np.moveaxis((points * PATCHES).astype(np.int32).clip(0, PATCHES - 1), -1, 0)
        return np.moveaxis(ground["patches"][:, y, x], 0, -1)
    crop = ground["crop"]
    located = (points * 2 - 1) @ crop[:, :2].T + crop[:, 2]
    x, y = np.moveaxis(((located + 1) * (_COARSE / 2)).astype(np.int32).clip(0, _COARSE - 1), -1, 0)
    return np.asarray(_coarse_photographs()[ground["photograph"], y, x] @ ground["mix"].T + ground["bias"])
