"""The steps around the engines on a GPU: pictures in, the kept masks out. Equal to the host's, bit by bit or nearly.

Knows what :class:`Device` asks for and the kernels; knows no engine and no CUDA call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.engines.running.base import AnyArray, Array, Device
from sam3_runtime.engines.running.cuda import Block, Cuda, CudaArray
from sam3_runtime.imaging.postprocess import PackedMasks, Size
from sam3_runtime.imaging.preprocess import Image, check_image, is_plain_stretch, preprocess, scaled_statistics, taps_of
from sam3_runtime.records.records import Preprocessing

_TABLES_KEPT = 16  # of source sizes; a camera has one
_MASKS_IN_FLIGHT = 3  # prompts whose masks are made and brought to the host at the same time


class CudaDevice(Device):
    """A GPU; ``cuda`` is its memory and stream, which the engines share."""

    queues = True

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.name = cuda.name
        self._tables: dict[tuple[int, int], tuple[Block, Block, int, int]] = {}
        self._statistics: tuple[Preprocessing, Block] | None = None

    def memory(self) -> tuple[int, int]:
        return self.cuda.memory()

    def synchronize(self) -> None:
        self.cuda.synchronize()

    def fetch(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        there = {name: array for name, array in arrays.items() if isinstance(array, CudaArray)}
        found = dict(zip(there, self.cuda.fetch(list(there.values())), strict=True)) if there else {}
        return {name: found[name] if name in found else np.asarray(array) for name, array in arrays.items()}

    # --- pictures -----------------------------------------------------------------------------------------------------

    def preprocess(
        self, images: Sequence[Image], resolution: int, preprocessing: Preprocessing, dtype: str
    ) -> AnyArray:
        if not is_plain_stretch(preprocessing):  # no kernel does it: the engine takes it to the device
            return np.asarray(preprocess(images, resolution, preprocessing), dtype)
        shape = (len(images), 3, resolution, resolution)
        item = np.dtype(dtype).itemsize
        pixels = CudaArray(self.cuda, self.cuda.block("pixels", prod(shape) * item).pointer, shape, dtype)
        mean, deviation = self._constants(preprocessing)
        for place, image in enumerate(images):
            check_image(image)
            height, width, _ = image.shape
            if len(self._tables) + 2 > _TABLES_KEPT:  # before either of this picture's is looked up
                self._free_tables()
            # A slot for each, so that all pictures of a batch are there when the GPU is done with the last one.
            raw = self.cuda.slot("picture", image.nbytes, of=len(images))
            narrow = self.cuda.block("narrow", 3 * height * resolution)
            self.cuda.send(raw, image)
            across, down = self._table(width, resolution), self._table(height, resolution)
            self.cuda.launch("resize_rows", (resolution, height), raw.block, height, width, resolution, *across, narrow)
            self.cuda.sent(raw)
            self.cuda.launch(
                f"resize_columns_{dtype}", (resolution, resolution, 3),
                narrow, height, resolution, *down, mean, deviation, pixels[place : place + 1],
            )  # fmt: skip
        return pixels

    def _table(self, source: int, target: int) -> tuple[Block, Block, int, int]:
        """``first`` and ``weights`` on the device, taps and bits."""
        key = source, target
        if key not in self._tables:
            taps = taps_of(source, target)
            blocks = [self._constant(array) for array in (taps.first, taps.weights)]
            self._tables[key] = blocks[0], blocks[1], taps.weights.shape[1], taps.bits
        return self._tables[key]

    def _constants(self, preprocessing: Preprocessing) -> tuple[CudaArray, CudaArray]:
        if self._statistics is None or self._statistics[0] != preprocessing:
            self._free_statistics()
            self._statistics = preprocessing, self._constant(np.stack(scaled_statistics(preprocessing)))
        both = CudaArray(self.cuda, self._statistics[1].pointer, (2, 3), np.float32)
        return both[0:1], both[1:2]

    def _constant(self, array: Array) -> Block:
        block = self.cuda.alloc(array.nbytes)
        self.cuda.upload(block, array)
        self.cuda.synchronize()  # the array is the host's to change
        return block

    # --- masks --------------------------------------------------------------------------------------------------------

    def begin_masks(self, logits: AnyArray, row: int, rows: NDArray[np.intp], size: Size) -> Callable[[], PackedMasks]:
        if not isinstance(logits, CudaArray):
            raise TypeError("masks of this device lie on it")
        height, width = size
        count, stride = len(rows), -(-width // 8)
        if count == 0:
            return lambda: PackedMasks(np.empty((0, height, stride), np.uint8), size)
        _, queries, down, across = logits.shape
        chosen = np.asarray(rows + row * queries, np.int32)
        index = self.cuda.block("rows", chosen.nbytes)
        self.cuda.stage("rows", index, chosen)
        pixels = down * across
        probabilities = self.cuda.block("probabilities", count * pixels * 4)
        self.cuda.launch(f"sigmoid_rows_{logits.dtype.name}", (pixels, count), logits, index, pixels, probabilities)
        bits = self.cuda.slot("bits", count * height * stride, of=_MASKS_IN_FLIGHT)
        self.cuda.launch(
            "resize_masks", (stride, height, count), probabilities, down, across, height, width, stride, bits.block
        )
        finish = self.cuda.begin_fetch(bits, (count, height, stride), np.uint8)
        return lambda: PackedMasks(finish(), size)

    def close(self) -> None:
        if self._tables:
            self._free_tables()
        self._free_statistics()
        self.cuda.close()

    def _free_tables(self) -> None:
        self.cuda.synchronize()  # kernels may still read them
        for first, weights, _, _ in self._tables.values():
            first.free()
            weights.free()
        self._tables.clear()

    def _free_statistics(self) -> None:
        if self._statistics is not None:
            self.cuda.synchronize()
            self._statistics[1].free()
            self._statistics = None
