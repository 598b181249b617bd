"""The shapes of the demo's scenes as signed distances, and the outlines, areas and inside tests computed from them.

A shape is centred at the origin of its own coordinates, within the square from -1 to 1, y downwards. Its signed
distance is negative inside, and exact near the outline, where anti-aliasing and rims use it. Everything else about a
shape is derived from its distance. Independent of images, colours and scenes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]

_GRID = 128  # cells a side on which a shape is tabulated
_HULL_DIRECTIONS = 72
_POINTS = 64


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.95


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.7


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral: a side below, and one to each side, which are mirror images."""
    return torch.maximum(y, x.abs() * (math.sqrt(3) / 2) - y / 2) - 0.48


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: folded into half of one of them, whose edge runs from the tip to the notch."""
    radius, half = torch.hypot(x, y), math.pi / 5
    turn = torch.atan2(x, -y)
    turn = (turn - torch.round(turn / (2 * half)) * (2 * half)).abs()
    tip, notch = 0.97, (0.44 * math.cos(half), 0.44 * math.sin(half))
    along = (notch[0] - tip, notch[1])
    length = math.hypot(*along)
    return ((radius * torch.cos(turn) - tip) * along[1] - radius * torch.sin(turn) * along[0]) / length


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.72).abs() - 0.23


def _cross(x: Tensor, y: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - 0.92, short - 0.3)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner, with half a disc on each of its upper sides."""
    half, y = 0.48, y - 0.12
    along, across = (x - y) / math.sqrt(2), (x + y) / math.sqrt(2)
    square = torch.maximum(along.abs(), across.abs()) - half
    right = torch.hypot(along - half, across) - half
    left = torch.hypot(along, across + half) - half
    return torch.minimum(square, torch.minimum(left, right))


def _moon(x: Tensor, y: Tensor) -> Tensor:
    """A disc from which another, shifted to the right, is cut."""
    return torch.maximum(torch.hypot(x, y) - 0.95, 0.78 - torch.hypot(x - 0.52, y))


_DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
SHAPES: tuple[str, ...] = tuple(_DISTANCES)


def signed_distance(shape: int, x: Tensor, y: Tensor) -> Tensor:
    """Distance of the points (``x``, ``y``), in the shape's own units, from the outline; negative inside."""
    return _DISTANCES[SHAPES[shape]](x, y)


# --- derived from the distances ---------------------------------------------------------------------------------------


@cache
def inside_table() -> NDArray[np.bool_]:
    """bool [shapes, 128, 128]: whether the cell (row = y, column = x) of the square from -1 to 1 is inside."""
    centres = (torch.arange(_GRID) + 0.5) * (2 / _GRID) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return np.stack([(signed_distance(shape, x, y) < 0).numpy() for shape in range(len(SHAPES))])


def inside(shape: NDArray[np.integer], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether ``points`` [..., 2] (x, y in the shape's own units) are in shapes [...], to the table's half cell."""
    cells = np.floor((points + 1) * (_GRID / 2)).astype(np.int32)
    within: NDArray[np.bool_] = ((cells >= 0) & (cells < _GRID)).all(-1)
    cells = cells.clip(0, _GRID - 1)
    within &= inside_table()[shape, cells[..., 1], cells[..., 0]]
    return within


@cache
def areas() -> NDArray[np.float32]:
    """float32 [shapes], in square units."""
    return np.asarray(inside_table().mean((1, 2)) * 4, np.float32)


def _inner_points(shape: int) -> NDArray[np.float32]:
    rows, columns = np.nonzero(inside_table()[shape])
    return ((np.stack([columns, rows], 1) + 0.5) * (2 / _GRID) - 1).astype(np.float32)


@cache
def sample_points() -> NDArray[np.float32]:
    """float32 [shapes, 64, 2]: points spread evenly over each shape's area, by which visible shares are estimated."""
    order = np.random.default_rng(0)
    return np.stack([order.permutation(_inner_points(shape))[:_POINTS] for shape in range(len(SHAPES))])


@cache
def _hulls() -> NDArray[np.float32]:
    """float32 [shapes, 72, 2]: of each shape the outermost point in each of 72 directions."""
    angles = np.arange(_HULL_DIRECTIONS) * (2 * math.pi / _HULL_DIRECTIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    hulls = []
    for shape in range(len(SHAPES)):
        points = _inner_points(shape)
        hulls.append(points[(points @ directions).argmax(0)])
    return np.stack(hulls)


def rotated(points: NDArray[np.float32], angle: NDArray[np.float32]) -> NDArray[np.float32]:
    """``points`` [T, P, 2] turned by ``angle`` [T] radians (clockwise on the screen, as y points downwards)."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def extents(shape: NDArray[np.integer], angle: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lower and upper corners [T, 2] of the boxes around shapes [T] turned by ``angle`` [T], in their units."""
    points = rotated(_hulls()[shape], angle)
    return points.min(1) - 1 / _GRID, points.max(1) + 1 / _GRID
