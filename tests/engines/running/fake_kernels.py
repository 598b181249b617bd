"""What each kernel of ``kernels/steps.cu`` does, in NumPy and the package's own functions; and what it is called with.

The types of a kernel's arguments are read from its own source.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources

import cv2
import numpy as np

from sam3_runtime.imaging.postprocess import MASK_THRESHOLD, sigmoid

View = Callable[..., np.ndarray]
"""An array in device memory, by address, shape and type."""
Grid = tuple[int, int, int]
Kernel = Callable[..., None]
"""Called with a way to see memory, the grid in blocks, and the kernel's own arguments."""
THREADS = 256  # of a block


def signatures() -> dict[str, list[type]]:
    """The NumPy type of each argument of each kernel in ``steps.cu``."""
    source = resources.files("sam3_runtime.engines.running").joinpath("kernels/steps.cu").read_text()
    found = re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', source)
    return {name: [_type_of(" ".join(one.split())) for one in arguments.split(",")] for name, arguments in found}


def _type_of(argument: str) -> type:
    if "*" in argument or argument.startswith("size_t"):
        return np.uint64
    assert argument.startswith("int "), argument
    return np.int32


def _matrix(view: View, first: int, weights: int, taps: int, source: int, target: int) -> np.ndarray:
    """The resize matrix [target, source], in float64: products of whole numbers as small as these are exact in it."""
    starts, rows = view(first, (target,), np.int32), view(weights, (target, taps), np.int32)
    made = np.zeros((target, source))
    for place, (start, row) in enumerate(zip(starts, rows, strict=True)):
        count = min(taps, source - start)
        made[place, start : start + count] = row[:count]
    return made


def _rounded(sums: np.ndarray, bits: int) -> np.ndarray:
    return np.minimum((sums.astype(np.int64) + (1 << (bits - 1))) >> bits, 255).astype(np.uint8)


def _resize_rows(view: View, grid: Grid, image: int, height: int, width: int, side: int, *rest: int) -> None:
    first, weights, taps, bits, to = rest
    assert grid[0] * THREADS >= side
    assert grid[1] == height
    matrix = _matrix(view, first, weights, taps, width, side)
    sums = view(image, (height, width, 3), np.uint8).transpose(2, 0, 1).astype(np.float64) @ matrix.T
    view(to, (3, height, side), np.uint8)[:] = _rounded(sums, bits)


def _resize_columns(dtype: str) -> Kernel:
    def kernel(view: View, grid: Grid, narrow: int, height: int, side: int, *rest: int) -> None:
        first, weights, taps, bits, mean, deviation, to = rest
        assert grid[0] * THREADS >= side
        assert grid[1:] == (side, 3)
        matrix = _matrix(view, first, weights, taps, height, side)
        sums = matrix @ view(narrow, (3, height, side), np.uint8).astype(np.float64)
        levels = _rounded(sums, bits).astype(np.float32)
        low, wide = (view(place, (3, 1, 1), np.float32) for place in (mean, deviation))
        view(to, (3, side, side), dtype)[:] = (levels - low) / wide

    return kernel


def _sigmoid_rows(dtype: str) -> Kernel:
    def kernel(view: View, grid: Grid, logits: int, rows: int, pixels: int, to: int) -> None:
        item, count = np.dtype(dtype).itemsize, grid[1]
        assert grid[0] * THREADS >= pixels
        chosen = [view(logits + int(row) * pixels * item, (pixels,), dtype) for row in view(rows, (count,), np.int32)]
        view(to, (count, pixels), np.float32)[:] = sigmoid(np.stack(chosen))

    return kernel


def _resize_masks(view: View, grid: Grid, probabilities: int, down: int, across: int, *rest: int) -> None:
    height, width, stride, to = rest
    assert grid[0] * THREADS >= stride
    assert grid[1] == height
    planes = view(probabilities, (grid[2], down, across), np.float32)
    for plane, bits in zip(planes, view(to, (grid[2], height, stride), np.uint8), strict=True):
        bits[:] = np.packbits(cv2.resize(plane, (width, height)) > MASK_THRESHOLD, axis=1)


def _converted(of: str, into: str) -> Kernel:
    def kernel(view: View, grid: Grid, source: int, count: int, to: int) -> None:
        assert grid[0] * THREADS >= count
        with np.errstate(over="ignore"):
            view(to, (count,), into)[:] = view(source, (count,), of)

    return kernel


FUNCTIONS: dict[str, Kernel] = {
    "resize_rows": _resize_rows,
    "resize_columns_float32": _resize_columns("float32"),
    "resize_columns_float16": _resize_columns("float16"),
    "sigmoid_rows_float32": _sigmoid_rows("float32"),
    "sigmoid_rows_float16": _sigmoid_rows("float16"),
    "resize_masks": _resize_masks,
    "narrow_to_float16": _converted("float32", "float16"),
    "widen_to_float32": _converted("float16", "float32"),
}
KERNELS: dict[str, tuple[Kernel, list[type]]] = {name: (FUNCTIONS[name], kinds) for name, kinds in signatures().items()}
"""By name: what it does, and the types of its arguments."""
