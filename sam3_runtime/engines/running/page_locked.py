"""Page-locked memory of the host that a GPU writes its results into, and that is used again once nobody holds them.

A result is handed over in the very memory that the GPU wrote. Copying it elsewhere costs the host more than the GPU has
taken to make it: 160 masks of 1080p are 41 MB, 12 ms of copying into new pages beside 11 ms of a decoder's call. Knows
no driver: how memory is locked and freed is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from sam3_runtime.engines.running.base import Array

LENT = 1 << 30
"""Bytes that callers may hold. What is beyond is copied, so that whoever keeps results does not lock all memory."""


class Buffer:
    """Page-locked bytes, and the event after which their last transfer is over."""

    def __init__(self, array: Array, event: Any) -> None:
        self.array = array
        self.event = event
        self.used = False

    def holding(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """The array that lies at its beginning."""
        return self.array[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def fill(self, array: Array) -> Array:
        """Copy ``array`` into it once its last transfer is over; where the copy lies."""
        self.wait()
        copy = self.holding(array.shape, array.dtype)
        np.copyto(copy, array)
        return copy

    def leave(self, stream: Any) -> None:
        """Its transfer has been put on ``stream``: it may be filled again when that is over."""
        self.event.record(stream)
        self.used = True

    def wait(self) -> None:
        if self.used:
            self.event.synchronize()
            self.used = False


class Pool:
    """Buffers that take turns. ``make`` gives one of at least so many bytes; ``free`` gives its memory back."""

    def __init__(self, make: Callable[[int], Buffer], free: Callable[[Buffer], None]) -> None:
        self._make, self._free = make, free
        # A result may be forgotten in any thread and at any line: one operation on each of these is all that it does.
        self._idle: list[Buffer] = []
        self._lent: set[Buffer] = set()
        self._closed = False

    def take(self, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes, which comes back with :meth:`hand_over`."""
        fitting = [buffer for buffer in self._idle if len(buffer.array) >= size]
        if fitting:
            smallest = min(fitting, key=lambda buffer: len(buffer.array))
            self._idle.remove(smallest)
            return smallest
        if self._idle:  # one that is too small goes, so that their number stays that of the largest need
            self._free(self._idle.pop(0))
        return self._make(size)

    def hand_over(self, buffer: Buffer, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """What ``buffer`` holds, for a caller to keep: its own memory, or a copy where callers hold much already."""
        there = buffer.holding(shape, dtype)
        if there.size == 0 or there.nbytes + sum(len(one.array) for one in tuple(self._lent)) > LENT:
            copied = there.copy()
            self._idle.append(buffer)
            return copied
        self._lent.add(buffer)
        return np.asarray(_Lent(there, buffer, self._take_back))

    def _take_back(self, buffer: Buffer) -> None:
        self._lent.discard(buffer)
        if self._closed:
            self._free(buffer)
        else:
            self._idle.append(buffer)

    def close(self) -> None:
        """Free what is idle. What callers hold stays theirs, and is freed when they forget it."""
        self._closed = True
        while self._idle:
            self._free(self._idle.pop())


class _Lent:
    """What owns the memory of an array in a caller's hands; every view of that array keeps it."""

    def __init__(self, array: Array, buffer: Buffer, back: Callable[[Buffer], None]) -> None:
        self.__array_interface__ = array.__array_interface__
        self._buffer, self._back = buffer, back

    def __del__(self) -> None:
        if not sys.is_finalizing():  # the driver may be gone by then, and the system takes all memory back
            self._back(self._buffer)
