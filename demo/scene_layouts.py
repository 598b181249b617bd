"""Samples layouts: the content of a scene as numbers, at random and fast (NumPy only, under a millisecond).

A layout determines the image of the scene and its ground truth. Objects ("things") are in painter's order, later ones
on top. Objects that would hardly be visible, because others cover them or the ground has their colour, are left out. No
image is drawn here.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.scene_grounds import coarse_colours, sample_ground
from demo.scene_shapes import SHAPES, areas, extents, inside, rotated, sample_points

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (217, 26, 26),
    "orange": (245, 125, 20),
    "yellow": (242, 222, 30),
    "green": (45, 165, 55),
    "cyan": (55, 212, 224),
    "blue": (43, 90, 217),
    "purple": (140, 60, 190),
    "white": (242, 242, 236),
}
TEXTURES = ("plain", "stripes", "dots", "gradient", "grain")
SIZE = (336, 336)  # pixels, (height, width)
MOST_THINGS = 15
SMALLEST, LARGEST = 0.08, 0.5  # the longer side of an object's box, as a share of the image's shorter side
LEAST_SHARE, LEAST_PIXELS = 0.25, 40  # of an object that must be visible; pixels at SIZE
_SHARE_MARGIN = 0.1  # the share is estimated from sample points
_LEAST_CONTRAST = 100  # RGB distance of an object's colour from the ground around it

THING = np.dtype(
    [
        ("shape", "i4"),  # index into SHAPES
        ("colour", "i4"),  # index into COLOURS
        ("identity", "i4"),
        ("centre", "f4", 2),  # of the shape's own coordinates: x, y in pixels
        ("scale", "f4"),  # pixels a unit of the shape's own coordinates
        ("angle", "f4"),  # radians
        ("rgb", "f4", 3),  # 0 to 255
        ("texture", "i4"),  # index into TEXTURES
        ("depth", "f4"),  # how much darker the texture gets, 0 to 1
        ("wave", "f4", 3),  # the texture's angular frequency (in the shape's units), direction and phase, radians
        ("rim", "f4"),  # how much darker the outline is, 0 to 1: it separates objects of one colour
    ]
)
LIGHT = np.dtype(
    [
        ("gain", "f4", 3),  # of R, G, B
        ("shade", "f4", 2),  # how much darker the image gets from one side to the other, along x and y
        ("noise", "f4"),  # standard deviation, of 255
        ("offset", "i4", 2),  # where the tile of noise begins
    ]
)


@dataclass(frozen=True)
class Layout:
    """A scene in numbers: ``size`` (height, width) in pixels; ``things`` [T] of ``THING``, later ones on top;
    ``ground`` of ``GROUND`` and ``light`` of ``LIGHT``, scalar arrays."""

    size: tuple[int, int]
    things: NDArray[Any]
    ground: NDArray[Any]
    light: NDArray[Any]

    @property
    def least_pixels(self) -> float:
        """The number of pixels from which an object counts as visible."""
        return LEAST_PIXELS * (min(self.size) / min(SIZE)) ** 2


def sample_layout(
    rng: np.random.Generator, size: tuple[int, int] = SIZE, include: Sequence[tuple[str, str]] = ()
) -> Layout:
    """Sample a layout of 1 to 15 objects, including one of each (shape, colour) of ``include``, which should be few.

    Sampling is repeated until the objects of ``include`` are visible.
    """
    colours = list(COLOURS)
    wanted = [(SHAPES.index(shape), colours.index(colour)) for shape, colour in include]
    while True:
        ground = sample_ground(rng)
        things = _sample_things(rng, size, wanted)
        things = things[_seen(things, ground, size)]
        classes = set(zip(things["shape"].tolist(), things["colour"].tolist(), strict=True))
        if len(things) and classes.issuperset(wanted):
            things["identity"] = np.arange(len(things))
            return Layout(size, things, ground, sample_light(rng))


def sample_light(rng: np.random.Generator) -> NDArray[Any]:
    """Sample light that only darkens, so that nothing is clipped and hues do not change."""
    light = np.zeros((), LIGHT)
    light["gain"] = rng.uniform(0.7, 1) * (1 - rng.uniform(0, 0.06, 3))
    way = rng.uniform(0, 2 * math.pi)
    light["shade"] = rng.uniform(0, 0.3) * np.array([math.cos(way), math.sin(way)])
    light["noise"] = 10 * rng.random() ** 2
    light["offset"] = rng.integers(1 << 16, size=2)
    return light


def _sample_things(rng: np.random.Generator, size: tuple[int, int], wanted: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Sample objects at random positions, of few shapes and colours, so that words must distinguish similar ones."""
    count = max(int(rng.integers(1, MOST_THINGS + 1)), len(wanted))
    things = np.zeros(count, THING)
    things["shape"] = rng.choice(rng.permutation(len(SHAPES))[: rng.integers(1, len(SHAPES) + 1)], count)
    things["colour"] = rng.choice(rng.permutation(len(COLOURS))[: rng.integers(1, len(COLOURS) + 1)], count)
    for index, (shape, colour) in zip(rng.permutation(count), wanted, strict=False):
        things["shape"][index], things["colour"][index] = shape, colour
    things["angle"] = rng.uniform(0, 2 * math.pi, count)
    things["rgb"] = _jittered(things["colour"], rng)
    things["texture"] = rng.integers(len(TEXTURES), size=count)
    things["depth"] = rng.uniform(0.15, 0.4, count)
    things["wave"] = rng.uniform((4, 0, 0), (12, 2 * math.pi, 2 * math.pi), (count, 3))
    things["rim"] = rng.uniform(0.2, 0.5, count)

    largest = LARGEST * min(1, (6 / count) ** 0.5)
    sides = min(size) * np.exp(rng.uniform(math.log(SMALLEST), math.log(largest), count))
    lower, upper = extents(things["shape"], things["angle"])
    things["scale"] = sides / (upper - lower).max(1)
    # Boxes are within the image; one in five may be cut by its border, by a quarter of its width and height at most.
    half = (upper - lower) / 2 * things["scale"][:, None] * np.where(rng.random((count, 1)) < 0.2, 0.5, 1)
    middle = rng.uniform(half, np.array(size[::-1]) - half)
    things["centre"] = middle - (lower + upper) / 2 * things["scale"][:, None]
    return things


def _jittered(colour: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return RGB [T, 3], shades of the colours [T]: hues stay within 4 degrees, and ``COLOURS`` are 26 apart."""
    shades = _hsv()[colour] * rng.uniform((1, 0.85, 0.88), (1, 1.05, 1.04), (len(colour), 3))
    hue, saturation, value = shades.clip(0, 1).T
    sector = (hue * 6 + rng.uniform(-4, 4, len(colour)) / 60)[:, None] + (5, 3, 1)
    ramp = np.minimum(sector % 6, 4 - sector % 6).clip(0, 1)
    return np.asarray(255 * value[:, None] * (1 - saturation[:, None] * ramp))


@cache
def _hsv() -> NDArray[np.float64]:
    """``COLOURS`` [colours, 3] as hue, saturation and value, 0 to 1."""
    return np.array([colorsys.rgb_to_hsv(*np.array(rgb) / 255) for rgb in COLOURS.values()])


def _seen(things: NDArray[Any], ground: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return bool [T]: which objects are visible. From the top down; an object that is not visible covers no other."""
    count = len(things)
    shape, angle = things["shape"], things["angle"]
    points = rotated(sample_points()[shape], angle) * things["scale"][:, None, None] + things["centre"][:, None]
    extent = np.array(size[::-1], np.float32)
    on_image = ((points >= 0) & (points < extent)).all(-1)
    # The points of each object in the coordinates of each object above it.
    under, over = np.triu_indices(count, 1)
    local = rotated(points[under] - things["centre"][over, None], -angle[over]) / things["scale"][over, None, None]
    covers = np.zeros((count, *on_image.shape), np.bool_)
    covers[over, under] = inside(shape[over, None], local)
    behind = coarse_colours(ground, points[:, ::4] / extent).mean(1)
    contrast = np.linalg.norm(behind - things["rgb"], axis=1)

    pixels = areas()[shape] * (things["scale"] * (min(SIZE) / min(size))) ** 2
    needed = np.maximum(LEAST_SHARE + _SHARE_MARGIN, 1.5 * LEAST_PIXELS / pixels) * points.shape[1]
    seen: NDArray[np.bool_] = contrast >= _LEAST_CONTRAST
    free = on_image
    for index in reversed(range(count)):
        seen[index] &= np.count_nonzero(free[index]) >= needed[index]
        if seen[index]:
            free = free & ~covers[index]
    return seen
