"""The steps around the engines on a GPU: images in, the masks of detections out.

Equal to the host's to the bit, or nearly.

Uses kernels and memory of :class:`Cuda`; makes no CUDA call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.engines.running.base import AnyArray, Array, Device
from sam3_runtime.engines.running.cuda import Block, Cuda, CudaArray
from sam3_runtime.imaging.postprocess import PackedMasks, Size
from sam3_runtime.imaging.preprocess import Image, check_image, is_plain_stretch, preprocess, scaled_statistics, taps_of
from sam3_runtime.records.records import Preprocessing

_TABLES_KEPT = 16  # two for each size of image; a camera has one size
_MASKS_IN_FLIGHT = 3  # prompts whose masks are made and brought to the host at the same time


class CudaDevice(Device):
    """A GPU; the engines share its memory and streams, ``cuda``."""

    queues = True

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.name = cuda.name
        self._tables: dict[Hashable, list[Block]] = {}

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU."""
        return self.cuda.memory()

    def synchronize(self) -> None:
        """Wait for everything that was queued."""
        self.cuda.synchronize()

    def fetch(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        """Copy arrays to the host; those of the host are returned as they are."""
        there = {name: array for name, array in arrays.items() if isinstance(array, CudaArray)}
        found = dict(zip(there, self.cuda.fetch(list(there.values())), strict=True)) if there else {}
        return {name: found[name] if name in found else np.asarray(array) for name, array in arrays.items()}

    def preprocess(
        self, images: Sequence[Image], resolution: int, preprocessing: Preprocessing, dtype: str
    ) -> AnyArray:
        """Return ``images`` as pixels [B, 3, R, R]; see :meth:`Device.preprocess`."""
        if not is_plain_stretch(preprocessing):  # there is no kernel for it: the engine uploads the host's result
            return np.asarray(preprocess(images, resolution, preprocessing), dtype)
        cuda, shape = self.cuda, (len(images), 3, resolution, resolution)
        block = cuda.block("pixels", prod(shape) * np.dtype(dtype).itemsize)
        pixels = CudaArray(cuda, block.pointer, shape, dtype)
        for index, image in enumerate(images):
            check_image(image)
            height, width, _ = image.shape
            # A slot for each, so that all images of a batch are on the GPU when it has processed the last one.
            raw = cuda.slot("image", image.nbytes, of=len(images))
            narrow = cuda.block("narrow", 3 * height * resolution)
            cuda.send(raw, image)
            mean, deviation = self._on_device(preprocessing, partial(scaled_statistics, preprocessing))
            across, down = self._taps(width, resolution), self._taps(height, resolution)
            cuda.launch("resize_rows", (resolution, height), raw.block, height, width, resolution, *across, narrow)
            cuda.sent(raw)
            cuda.launch(
                f"resize_columns_{dtype}", (resolution, resolution, 3),
                narrow, height, resolution, *down, mean, deviation, pixels[index : index + 1],
            )  # fmt: skip
        return pixels

    def _taps(self, source: int, target: int) -> tuple[Block, Block, int, int]:
        """``first`` and ``weights`` on the device, their number a pixel, and their bits."""
        taps = taps_of(source, target)
        first, weights = self._on_device((source, target), lambda: (taps.first, taps.weights))
        return first, weights, taps.weights.shape[1], taps.bits

    def _on_device(self, key: Hashable, make: Callable[[], Sequence[Array]]) -> list[Block]:
        """Return the arrays that ``make`` gives, uploaded once for ``key``; those used least recently are freed."""
        blocks = self._tables.pop(key, None)
        if blocks is None:
            while len(self._tables) >= _TABLES_KEPT:
                self._free_table(next(iter(self._tables)))
            arrays = make()
            blocks = [self.cuda.alloc(array.nbytes) for array in arrays]
            for block, array in zip(blocks, arrays, strict=True):
                self.cuda.upload(block, array)
            self.cuda.synchronize()  # the host may change the arrays
        self._tables[key] = blocks
        return blocks

    def _free_table(self, key: Hashable) -> None:
        self.cuda.synchronize()  # kernels may still read it
        for block in self._tables.pop(key):
            block.free()

    def begin_masks(self, logits: AnyArray, row: int, rows: NDArray[np.intp], size: Size) -> Callable[[], PackedMasks]:
        """Begin the masks ``rows`` of prompt ``row``, as bits; see :meth:`Device.begin_masks`."""
        if not isinstance(logits, CudaArray):
            raise TypeError("the logits of masks must be on this device")
        cuda, (height, width) = self.cuda, size
        count, stride = len(rows), -(-width // 8)
        if count == 0:
            return lambda: PackedMasks(np.empty((0, height, stride), np.uint8), size)
        _, queries, down, across = logits.shape
        chosen = np.asarray(rows + row * queries, np.int32)
        index = cuda.block("rows", chosen.nbytes)
        cuda.stage("rows", index, chosen)
        pixels = down * across
        probabilities = cuda.block("probabilities", count * pixels * 4)
        cuda.launch(f"sigmoid_rows_{logits.dtype.name}", (pixels, count), logits, index, pixels, probabilities)
        bits = cuda.slot("bits", count * height * stride, of=_MASKS_IN_FLIGHT)
        grid = (stride, height, count)
        cuda.launch("resize_masks", grid, probabilities, down, across, height, width, stride, bits.block)
        finish = cuda.begin_fetch(bits, (count, height, stride), np.uint8)
        return lambda: PackedMasks(finish(), size)

    def close(self) -> None:
        """Free the GPU's memory."""
        for key in list(self._tables):
            self._free_table(key)
        self.cuda.close()
