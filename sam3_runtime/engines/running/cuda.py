"""Device memory, streams, transfers and kernels: the only module that uses pycuda.

Every call may come from any thread, one at a time. CUDA graphs, which pycuda lacks, are in ``cuda_graphs.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from math import prod
from typing import Any

import numpy as np

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.gpus import NUMBERING, VISIBLE_DEVICES, describe_visible
from sam3_runtime.engines.running.base import Array, DeviceArray
from sam3_runtime.engines.running.page_locked import Buffer, Pool

ALIGNMENT = 256
"""Bytes that addresses are multiples of, as TensorRT requires for its tensors."""
_THREADS = 256
_CONVERSIONS = {("float32", "float16"): "narrow_to_float16", ("float16", "float32"): "widen_to_float32"}


class Block:
    """A piece of device memory of ``size`` bytes at ``pointer``."""

    def __init__(self, cuda: Cuda, allocation: Any, size: int) -> None:
        self._cuda, self._allocation = cuda, allocation
        self.pointer, self.size = int(allocation), size

    def free(self) -> None:
        """Free the memory, from any thread. Freeing twice does nothing."""
        if self._allocation is not None:
            with self._cuda.current():
                self._allocation.free()
            self._allocation = None


@dataclass(eq=False)
class Slot:
    """A piece of device memory that is filled or read beside the main stream, one of several that take turns.

    ``ready`` is the event after which the main stream no longer uses it, ``moved`` the one after which its transfer to
    the host is over. It is filled from ``buffer``.
    """

    block: Block
    ready: Any
    moved: Any
    buffer: Buffer | None = None


class CudaArray(DeviceArray):
    """A C-contiguous array in the device memory of ``cuda``, at ``pointer``."""

    def __init__(self, cuda: Cuda, pointer: int, shape: Sequence[int], dtype: Any) -> None:
        self.cuda = cuda
        self.pointer = pointer
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> CudaArray:
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("a device array is sliced in steps of 1 only")
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return CudaArray(self.cuda, self.pointer + start * row, (max(stop - start, 0), *self.shape[1:]), self.dtype)

    def astype(self, dtype: Any, name: str) -> CudaArray:
        """Return it as float16 or float32; see :meth:`DeviceArray.astype`."""
        return self if np.dtype(dtype) == self.dtype else self.cuda.converted(self, np.dtype(dtype), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a device array reaches the host as a copy")
        found = self.cuda.fetch([self])[0]
        return found if dtype is None else found.astype(dtype)


class Cuda:
    """One GPU, by its number as in :mod:`sam3_runtime.core.gpus`, and two streams.

    Engines run on the main stream; the other moves images and masks beside it. ``allocations`` counts allocations on
    either side.

    pycuda frees memory only where its context is current or in the thread that opened it, and otherwise leaks it: hence
    :meth:`current` around everything that frees.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = _import_driver()
        device = _find_device(self._driver, index)
        self._context = device.retain_primary_context()
        self.name = str(device.name())
        self.compute_capability = ".".join(map(str, device.compute_capability()))
        self.allocations = 0
        self._blocks: dict[str, Block] = {}
        self._slots: dict[str, list[Slot]] = {}
        self._pinned: dict[str, Buffer] = {}
        driver, context = self._driver, self._context

        def free(buffer: Buffer) -> None:  # results are freed after this object is closed, too
            context.push()
            del buffer.array, buffer.event
            driver.Context.pop()

        self._results = Pool(self._new_pinned, free)
        with self.current():
            self._stream, self._beside = self._driver.Stream(), self._driver.Stream()
            ptx = resources.files(__package__).joinpath("kernels/steps.ptx").read_bytes()
            self._module = self._driver.module_from_buffer(ptx)
        self.stream_handle = int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU's context current in the calling thread, as other libraries need; methods do it themselves."""
        if self._context is None:
            raise EngineError("the GPU is closed", "open the variant again")
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the GPU."""
        with self.current():
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    # --- memory -------------------------------------------------------------------------------------------------------

    def alloc(self, size: int) -> Block:
        """Allocate ``size`` bytes; raises :class:`EngineError` when out of memory."""
        with self.current():
            try:
                allocation = self._driver.mem_alloc(max(size, ALIGNMENT))
            except self._driver.MemoryError:
                free, total = self._driver.mem_get_info()
                raise EngineError(
                    f"out of GPU memory: {size >> 20} MiB more are needed, and {free >> 20} of {total >> 20} MiB "
                    f"are free on {self.name}",
                    "close what else runs there, or take a variant of a smaller batch or resolution",
                ) from None
        self.allocations += 1
        return Block(self, allocation, size)

    def block(self, name: str, size: int) -> Block:
        """Return the block of that name; one that is too small is replaced, and its content is lost."""
        known = self._blocks.get(name)
        if known is None or known.size < size:
            if known is not None:
                self.synchronize()
                known.free()
            self._blocks[name] = self.alloc(size)
        return self._blocks[name]

    def slot(self, name: str, size: int, of: int) -> Slot:
        """Return the next of ``of`` slots of that name, of at least ``size`` bytes.

        The main stream may write it at once: it waits for a transfer from it.
        """
        slots = self._slots.setdefault(name, [])
        if len(slots) < of or slots[0].block.size < size:  # all at once, so that nothing is allocated later
            size = max([size, *(slot.block.size for slot in slots)])
            self._free_slots(slots)
            with self.current():
                slots += [Slot(self.alloc(size), self._new_event(), self._new_event()) for _ in range(of)]
        slot = slots.pop(0)
        slots.append(slot)
        with self.current():
            self._stream.wait_for_event(slot.moved)
        return slot

    def _free_slots(self, slots: list[Slot]) -> None:
        self.synchronize()
        with self.current():
            while slots:
                slots.pop().block.free()

    def _pinned_of(self, name: str, size: int) -> Buffer:
        known = self._pinned.get(name)
        if known is None or len(known.array) < size:
            with self.current():
                if known is not None:
                    known.event.synchronize()
                known = self._pinned[name] = self._new_pinned(size)
        return known

    def _new_pinned(self, size: int) -> Buffer:
        """Return a page-locked buffer of ``size`` bytes, or up to an eighth more: it is reused for similar sizes."""
        step = max(ALIGNMENT, 1 << max(max(size - 1, 1).bit_length() - 4, 0))
        with self.current():
            array = self._driver.pagelocked_empty(-(-max(size, 1) // step) * step, np.uint8)
            self.allocations += 1
            return Buffer(array, self._new_event())

    def _new_event(self) -> Any:
        return self._driver.Event(self._driver.event_flags.DISABLE_TIMING)

    # --- transfers ----------------------------------------------------------------------------------------------------

    def upload(self, target: Block | CudaArray, array: Array) -> None:
        """Copy ``array`` to the device, in the main stream's order.

        It must not change until then: see :meth:`stage`.
        """
        with self.current():
            self._driver.memcpy_htod_async(target.pointer, np.ascontiguousarray(array), self._stream)

    def stage(self, name: str, target: Block | CudaArray, array: Array) -> None:
        """Copy ``array`` to the device through the page-locked buffer ``name``: the caller may change it at once."""
        buffer = self._pinned_of(name, array.nbytes)
        self.upload(target, buffer.fill(array))
        with self.current():
            buffer.event.record(self._stream)

    def fetch(self, arrays: Sequence[CudaArray]) -> list[Array]:
        """Return copies of ``arrays`` on the host. Waits for the main stream."""
        buffers = [self._pinned_of(f"fetch {index}", array.nbytes) for index, array in enumerate(arrays)]
        with self.current():
            for buffer, array in zip(buffers, arrays, strict=True):
                if array.nbytes:
                    self._driver.memcpy_dtoh_async(buffer.array[: array.nbytes], array.pointer, self._stream)
            self._stream.synchronize()
        return [buffer.holding(one.shape, one.dtype).copy() for buffer, one in zip(buffers, arrays, strict=True)]

    def send(self, slot: Slot, array: Array) -> None:
        """Fill ``slot`` beside the main stream, which waits for it.

        ``array`` may be changed at once. Call :meth:`sent` when everything that reads the slot is on the main stream.
        """
        if slot.buffer is None:
            slot.buffer = self._new_pinned(slot.block.size)
        copy = slot.buffer.fill(array)
        with self.current():
            self._beside.wait_for_event(slot.ready)
            self._driver.memcpy_htod_async(slot.block.pointer, copy, self._beside)
            slot.buffer.event.record(self._beside)
            self._stream.wait_for_event(slot.buffer.event)

    def sent(self, slot: Slot) -> None:
        """Let ``slot`` be filled again once the main stream has come to this point."""
        with self.current():
            slot.ready.record(self._stream)

    def begin_fetch(self, slot: Slot, shape: Sequence[int], dtype: Any) -> Callable[[], Array]:
        """Begin to copy the array in ``slot`` to the host, beside the main stream.

        The returned function waits and gives the array, once.

        The array belongs to the caller and outlives this object; its page-locked memory is reused when it is deleted.
        """
        kind = np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        buffer = self._results.take(size)
        with self.current():
            slot.ready.record(self._stream)
            self._beside.wait_for_event(slot.ready)
            self._driver.memcpy_dtoh_async(buffer.array[:size], slot.block.pointer, self._beside)
            buffer.event.record(self._beside)
            slot.moved.record(self._beside)

        def finish() -> Array:
            buffer.event.synchronize()
            return self._results.hand_over(buffer, shape, kind)

        return finish

    def copy(self, target: int, source: CudaArray) -> None:
        """Copy on the device, in the main stream's order."""
        with self.current():
            self._driver.memcpy_dtod_async(target, source.pointer, source.nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait for both streams."""
        with self.current():
            self._stream.synchronize()
            self._beside.synchronize()

    # --- kernels ------------------------------------------------------------------------------------------------------

    def launch(self, name: str, size: tuple[int, ...], *arguments: Any) -> None:
        """Run a kernel of ``kernels/steps.ptx`` over ``size`` (x in threads, y and z in blocks).

        Arguments are arrays and blocks (passed by address), NumPy scalars, and Python ints (32 bits).
        """
        with self.current():
            kernel = self._module.get_function(name)
            values = [_argument(argument) for argument in arguments]
            x, y, z = (*size, 1, 1)[:3]
            kernel(*values, grid=(-(-x // _THREADS), y, z), block=(_THREADS, 1, 1), stream=self._stream)

    def converted(self, array: CudaArray, dtype: np.dtype[Any], name: str) -> CudaArray:
        """Return ``array`` as float16 or float32, in the block of that ``name`` and type.

        Its next conversion overwrites the block; the main stream reads it before that.
        """
        kernel = _CONVERSIONS.get((array.dtype.name, dtype.name))
        if kernel is None:
            raise EngineError(f"{array.dtype} cannot be converted to {dtype} on the GPU")
        count = prod(array.shape)
        block = self.block(f"converted {name} {dtype.name}", count * dtype.itemsize)
        self.launch(kernel, (count,), array, np.uint64(count), block)
        return CudaArray(self, block.pointer, array.shape, dtype)

    def close(self) -> None:
        """Free everything but results that callers hold. Do not use device arrays and graphs afterwards."""
        if self._context is None:
            return
        self.synchronize()
        for block in self._blocks.values():
            block.free()
        for slots in self._slots.values():
            self._free_slots(slots)
        self._results.close()
        with self.current():
            self._pinned.clear()
            self._module = self._stream = self._beside = None
        self._context = None


def _argument(value: Any) -> Any:
    if isinstance(value, (CudaArray, Block)):
        return np.uint64(value.pointer)
    return np.int32(value) if isinstance(value, int) else value


def _import_driver() -> Any:
    try:
        import pycuda.driver
    except ImportError as error:
        raise EngineError(
            f"pycuda, which runs TensorRT engines, cannot be used here ({error})",
            "on a machine with an NVIDIA driver: pip install 'sam3-runtime[cuda]', which the CUDA toolkit compiles",
        ) from None
    return pycuda.driver


def _find_device(driver: Any, index: int) -> Any:
    """Return the GPU of that number. By default CUDA sorts the fastest one first, unlike ``nvidia-smi``."""
    try:
        driver.init()
        devices = [driver.Device(number) for number in range(driver.Device.count())]
    except driver.Error as error:
        raise EngineError(f"the NVIDIA driver shows no GPU ({error})", "check nvidia-smi") from None
    if VISIBLE_DEVICES not in os.environ:
        devices.sort(key=lambda device: [int(part, 16) for part in re.split("[:.]", device.pci_bus_id())])
    if not 0 <= index < len(devices):
        visible = describe_visible([str(one.name()) for one in devices])
        raise EngineError(f"there is no GPU {index}: {visible}", NUMBERING)
    return devices[index]
