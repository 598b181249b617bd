"""Preprocesses images for a model: antialiased resize to R×R on 8-bit values, and normalisation.

Inference, calibration, verification and benchmark all use this module.

Crops and other filters than the bilinear one use Pillow, and normalise after /255: bit for bit as timm's and
torchvision's transforms of a PIL image.

The reference of a bilinear stretch is transformers' image processor, that is torchvision's antialiased bilinear resize
of 8-bit images on a CPU. It resizes the width, rounds to 8 bits, then the height, and rounds again, with weights
rounded to 16-bit integers. Both steps are products with a banded matrix whose weights depend on the source size alone.
All values are integers times one power of two, so that float32 sums are exact while a source is at most four times the
resolution: then the result equals torchvision's bit for bit; beyond, one pixel in 30 000 differs, by one level of 255.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sam3_runtime.core.errors import SourceError
from sam3_runtime.records.records import Preprocessing

Image = NDArray[np.uint8]
"""RGB, [H, W, 3]."""
FloatArray = NDArray[np.float32]

_BLOCK = 16  # outputs computed by one small product; 16 was the fastest of 16, 32, 64
_SINGLE_THREAD = 1 << 18
# Multiply-adds up to which OpenBLAS stays on one thread. Threads do not pay off for such small products, and while
# engines keep every core busy they took 30 times as long.
_WEIGHT_BITS = 15  # torchvision rounds weights to signed 16-bit integers
_FILTERS = {
    "bilinear-antialias": Pillow.Resampling.BILINEAR,
    "bicubic-antialias": Pillow.Resampling.BICUBIC,
    "lanczos-antialias": Pillow.Resampling.LANCZOS,
}
_MOST_PIXELS = 1 << 28  # of an image that was resized by its shorter side


def preprocess(
    images: Sequence[Image], resolution: int, preprocessing: Preprocessing, out: FloatArray | None = None
) -> FloatArray:
    """Resize B images (RGB uint8 [H, W, 3], each of any size) to ``resolution`` squared and normalise them.

    Returns float32 [B, 3, R, R], which is ``out`` if given. Raises :class:`SourceError` for an invalid image, or one
    that is too narrow to be resized by its shorter side, and ``ValueError`` for another shape or type of ``out``.
    """
    shape = (len(images), 3, resolution, resolution)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} {out.shape}, not float32 {shape}")
    stretches = is_plain_stretch(preprocessing)
    mean, std = scaled_statistics(preprocessing) if stretches else _statistics(preprocessing)
    for image, target in zip(images, out, strict=True):
        check_image(image)
        if stretches:
            _resize(image, target)
        else:
            np.divide(_crop(image, resolution, preprocessing).transpose(2, 0, 1), np.float32(255), out=target)
        np.subtract(target, mean[:, None, None], out=target)
        np.divide(target, std[:, None, None], out=target)
    return out


def scaled_statistics(preprocessing: Preprocessing) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each channel, float32 [3], times 255, as in the reference."""
    mean, std = _statistics(preprocessing)
    return mean * np.float32(255), std * np.float32(255)


def _statistics(preprocessing: Preprocessing) -> tuple[FloatArray, FloatArray]:
    return np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)


def is_plain_stretch(preprocessing: Preprocessing) -> bool:
    """Return whether this is a bilinear stretch without a crop, which GPUs do themselves."""
    return (preprocessing.fit, preprocessing.crop, preprocessing.resample) == ("stretch", None, "bilinear-antialias")


def check_image(image: Image) -> None:
    """Raise :class:`SourceError` unless ``image`` is RGB uint8 [H, W, 3] with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise SourceError(f"an image is a NumPy array, not {type(image).__name__}", "read files with load_image()")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise SourceError(
            f"an image is RGB uint8 [H, W, 3]; this array is {image.dtype} {list(image.shape)}",
            "read files with load_image(); note that OpenCV's channel order is BGR",
        )


def _resize(image: Image, out: FloatArray) -> None:
    """Resize [H, W, 3] into ``out`` [3, R, R]: whole numbers from 0 to 255, in float32."""
    height, width, _ = image.shape
    resolution = out.shape[-1]
    planes = np.empty((3, height, width), np.float32)
    for channel in range(3):
        planes[channel] = image[:, :, channel]
    rows = planes.reshape(3 * height, width)
    narrow = np.empty((3 * height, resolution), np.float32)
    for band in _bands(width, resolution):
        for part in _parts(len(rows), band):
            np.matmul(rows[part, band.source], band.weights.T, out=narrow[part, band.target])
    _round(narrow)
    columns = narrow.reshape(3, height, resolution)
    for band in _bands(height, resolution):
        for part in _parts(resolution, band):
            np.matmul(band.weights, columns[:, band.source, part], out=out[:, band.target, part])
    _round(out)


def _crop(image: Image, resolution: int, preprocessing: Preprocessing) -> Image:
    """Return the centre of the resized image, uint8 [R, R, 3]; sizes and offsets are rounded as in torchvision."""
    height, width, _ = image.shape
    side = math.floor(resolution / (preprocessing.crop or 1.0))
    tall = wide = side
    if preprocessing.fit == "crop":
        short = min(height, width)
        tall, wide = int(side * height / short), int(side * width / short)
    if tall * wide > _MOST_PIXELS:
        raise SourceError(
            f"an image of {width} x {height} pixels would have {wide} x {tall} with its shorter side at {side}",
            "crop it: the model sees only a square of it",
        )
    resized = Pillow.fromarray(np.ascontiguousarray(image)).resize((wide, tall), _FILTERS[preprocessing.resample])
    top, left = round((tall - resolution) / 2), round((wide - resolution) / 2)
    return np.asarray(resized)[top : top + resolution, left : left + resolution]


def _parts(length: int, band: _Band) -> Iterator[slice]:
    """``length`` rows or columns, cut so that each product stays on the calling thread."""
    step = max(1, _SINGLE_THREAD // band.weights.size)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _round(values: FloatArray) -> None:
    """Round to integers in place, halves up. No weight is negative, so values stay within 0 to 255."""
    np.add(values, np.float32(0.5), out=values)
    np.floor(values, out=values)


@dataclass(frozen=True)
class _Band:
    """A block of the resize matrix: the outputs ``target`` are ``weights`` [targets, sources] by inputs ``source``."""

    source: slice
    target: slice
    weights: FloatArray


@dataclass(frozen=True)
class Taps:
    """The resize matrix [target, source] along one axis, in integers.

    Output ``i`` is the sum of ``weights[i, k]`` times input ``first[i] + k``, divided by 2 to the power ``bits`` and
    rounded. ``first`` int32 [target]; ``weights`` int32 [target, K], zero after the last tap.
    """

    first: NDArray[np.int32]
    weights: NDArray[np.int32]
    bits: int


@lru_cache(maxsize=64)
def taps_of(source: int, target: int) -> Taps:
    """Return the weights to resize ``source`` pixels to ``target``: triangles, rounded to 16 bits."""
    scale = source / target
    reach = max(scale, 1.0)  # pixels; enlarging is plain interpolation between two neighbours
    centers = (np.arange(target) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int64), source)
    hats = [_hat(np.arange(low, high), center, reach) for low, high, center in zip(first, last, centers, strict=True)]
    bits = _fraction_bits(max(float(hat.max()) for hat in hats))
    weights = np.zeros((target, max(map(len, hats))), np.int32)
    for row, hat in enumerate(hats):
        weights[row, : len(hat)] = np.floor(hat * 2.0**bits + 0.5)
    return Taps(first.astype(np.int32), weights, bits)


@lru_cache(maxsize=64)
def _bands(source: int, target: int) -> tuple[_Band, ...]:
    """Return the resize matrix [target, source], cut into blocks along its diagonal."""
    taps = taps_of(source, target)
    reach = taps.weights.shape[1]
    matrix = np.zeros((target, source + reach), np.float32)  # taps after the last pixel are zero
    np.put_along_axis(matrix, taps.first[:, None] + np.arange(reach), taps.weights / np.float32(2.0**taps.bits), axis=1)
    bands = []
    for start in range(0, target, _BLOCK):
        rows = slice(start, min(start + _BLOCK, target))
        used = slice(int(taps.first[start]), int(min(max(taps.first[rows]) + reach, source)))
        bands.append(_Band(used, rows, np.ascontiguousarray(matrix[rows, used])))
    return tuple(bands)


def _hat(pixels: NDArray[np.int64], center: float, reach: float) -> NDArray[np.float64]:
    """Triangle weights of pixel centres around ``center``, summing to one."""
    weights = np.maximum(0.0, 1.0 - np.abs((pixels + 0.5 - center) / reach))
    return np.asarray(weights / weights.sum())


def _fraction_bits(largest: float) -> int:
    """Bits behind the point with which the largest weight still fits a signed 16-bit integer."""
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << _WEIGHT_BITS:
        bits += 1
    return bits
