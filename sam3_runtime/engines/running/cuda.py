"""Device memory, the stream, transfers and kernels: the one module that talks to pycuda.

Knows no engine and no tensor's meaning. Every call may come from any thread, one at a time. CUDA graphs, which pycuda
does not know, are in ``cuda_graphs.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from math import prod
from typing import Any

import numpy as np

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.gpus import NUMBERING, VISIBLE_DEVICES, describe_visible
from sam3_runtime.engines.running.base import Array, DeviceArray
from sam3_runtime.engines.running.page_locked import Buffer, Pool

ALIGNMENT = 256
"""Bytes that addresses are multiples of, as TensorRT wants those of its tensors."""
_MIB = 1 << 20
_THREADS = 256


class Block:
    """A piece of device memory: ``pointer`` and ``size`` in bytes. Freed with :meth:`free`, from any thread."""

    def __init__(self, cuda: Cuda, allocation: Any, size: int) -> None:
        self._cuda = cuda
        self._allocation = allocation
        self.size = size

    @property
    def pointer(self) -> int:
        return int(self._allocation)

    def free(self) -> None:
        if self._allocation is not None:
            with self._cuda.current():
                self._allocation.free()
            self._allocation = None


class Slot:
    """A piece of device memory that is filled or emptied beside the stream, one of several that take turns.

    ``ready``: what the stream does with it is over; ``moved``: so is the transfer. It is filled from ``buffer``.
    """

    def __init__(self, block: Block, ready: Any, moved: Any) -> None:
        self.block = block
        self.ready, self.moved = ready, moved
        self.buffer: Buffer | None = None


class CudaArray(DeviceArray):
    """An array in device memory, C-contiguous, at ``pointer``. ``cuda`` is where it lies."""

    def __init__(self, cuda: Cuda, pointer: int, shape: Sequence[int], dtype: Any) -> None:
        self.cuda = cuda
        self.pointer = pointer
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> CudaArray:
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("rows of a device array are taken one after the other")
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return CudaArray(self.cuda, self.pointer + start * row, (max(stop - start, 0), *self.shape[1:]), self.dtype)

    def astype(self, dtype: Any, name: str) -> CudaArray:
        return self if np.dtype(dtype) == self.dtype else self.cuda.converted(self, np.dtype(dtype), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a device array reaches the host as a copy")
        found = self.cuda.fetch([self])[0]
        return found if dtype is None else found.astype(dtype)


class Cuda:
    """One GPU, by its number as :mod:`sam3_runtime.core.gpus` counts, and one stream on it; a second one moves pictures
    and masks beside it.

    ``allocations`` counts what was ever allocated on either side.

    pycuda frees what it is told to, or what is forgotten, only where the context is current or in the thread that
    opened it, and otherwise leaves it behind: hence :meth:`current` around all that frees.
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
        self._results = Pool(self._new_pinned, partial(_free_pinned, self._driver, self._context))
        self._kernels: dict[str, Any] = {}
        self._module: Any = None
        with self.current():
            self._stream, self._beside = self._driver.Stream(), self._driver.Stream()
        self.stream_handle = int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU's context the calling thread's. Everything here does so itself; a library's calls need it."""
        if self._context is None:
            raise EngineError("the GPU is closed", "open the variant again")
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU."""
        with self.current():
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    # --- memory -------------------------------------------------------------------------------------------------------

    def alloc(self, size: int) -> Block:
        """``size`` bytes; :class:`EngineError` where the GPU has them not."""
        with self.current():
            try:
                allocation = self._driver.mem_alloc(max(size, ALIGNMENT))
            except self._driver.MemoryError:
                free, total = self._driver.mem_get_info()
                raise EngineError(
                    f"out of GPU memory: {size >> 20} MiB more were asked for, and {free >> 20} of {total >> 20} MiB "
                    f"are free on {self.name}",
                    "close what else runs there, or take a variant of a smaller batch or resolution",
                ) from None
        self.allocations += 1
        return Block(self, allocation, size)

    def array(self, shape: Sequence[int], dtype: Any) -> tuple[Block, CudaArray]:
        """A new array and the block that holds it."""
        block = self.alloc(prod(shape) * np.dtype(dtype).itemsize)
        return block, CudaArray(self, block.pointer, shape, dtype)

    def block(self, name: str, size: int) -> Block:
        """The block of that name, which grows when more is asked for, and is kept: what it held is then lost."""
        known = self._blocks.get(name)
        if known is None or known.size < size:
            if known is not None:
                self.synchronize()
                known.free()
            self._blocks[name] = self.alloc(size)
        return self._blocks[name]

    def slot(self, name: str, size: int, of: int) -> Slot:
        """The next of ``of`` slots of that name, of at least ``size`` bytes. The stream may write it at once, since it
        waits for what reads it beside."""
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

    def pinned(self, shape: Sequence[int] | int, dtype: Any) -> Array:
        """A page-locked array on the host: transfers from and to it run beside the host."""
        with self.current():
            made: Array = self._driver.pagelocked_empty(shape, dtype)
        self.allocations += 1
        return made

    # --- transfers ----------------------------------------------------------------------------------------------------

    def upload(self, target: Block | CudaArray | int, array: Array) -> None:
        """Copy ``array`` to the device, in the stream's order. It must stay as it is until then: see :meth:`stage`."""
        pointer = target if isinstance(target, int) else target.pointer
        with self.current():
            self._driver.memcpy_htod_async(pointer, np.ascontiguousarray(array), self._stream)

    def stage(self, name: str, target: Block | CudaArray | int, array: Array) -> None:
        """Copy ``array`` to the device by way of the page-locked buffer ``name``: the caller may change it at once."""
        pinned = self._pinned_of(name, array.nbytes)
        self.upload(target, pinned.fill(array))
        with self.current():
            pinned.leave(self._stream)

    def fetch(self, arrays: Sequence[CudaArray]) -> list[Array]:
        """Copies of ``arrays`` on the host, which belong to the caller. Waits for the stream."""
        starts = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)])
        pinned = self._pinned_of("fetch", int(starts[-1]))
        places = [
            pinned.array[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            for start, array in zip(starts, arrays, strict=False)
        ]
        with self.current():
            for place, array in zip(places, arrays, strict=True):
                if array.nbytes:
                    self._driver.memcpy_dtoh_async(place, array.pointer, self._stream)
            self._stream.synchronize()
        return [place.copy() for place in places]

    def send(self, slot: Slot, array: Array) -> None:
        """Fill ``slot`` beside the stream, which waits for it. ``array`` may be changed at once; :meth:`sent` must
        follow when all that reads the slot is on the stream."""
        if slot.buffer is None:
            slot.buffer = self._new_pinned(slot.block.size)
        copy = slot.buffer.fill(array)
        with self.current():
            self._beside.wait_for_event(slot.ready)
            self._driver.memcpy_htod_async(slot.block.pointer, copy, self._beside)
            slot.buffer.leave(self._beside)
            self._stream.wait_for_event(slot.buffer.event)

    def sent(self, slot: Slot) -> None:
        """Nothing that comes on the stream from here on reads ``slot``: it may be filled again."""
        with self.current():
            slot.ready.record(self._stream)

    def begin_fetch(self, slot: Slot, shape: Sequence[int], dtype: Any) -> Callable[[], Array]:
        """Empty ``slot``, which holds an array, beside what is put on the stream from here on; the function that is
        returned waits, once, and gives the array.

        It belongs to the caller, outlives this object, and lies in page-locked memory that is used again when it is
        forgotten.
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
        """Copy on the device, in the stream's order."""
        with self.current():
            self._driver.memcpy_dtod_async(target, source.pointer, source.nbytes, self._stream)

    def _pinned_of(self, name: str, size: int) -> Buffer:
        known = self._pinned.get(name)
        if known is None or len(known.array) < size:
            if known is not None:
                known.wait()
            with self.current():
                known = self._pinned[name] = self._new_pinned(size)
        return known

    def _new_pinned(self, size: int) -> Buffer:
        with self.current():
            event = self._new_event()
        return Buffer(self.pinned(_roomy(size), np.uint8), event)

    def _new_event(self) -> Any:
        return self._driver.Event(self._driver.event_flags.DISABLE_TIMING)

    def synchronize(self) -> None:
        """Wait for everything that was put on the stream, and for what goes on beside it."""
        with self.current():
            self._stream.synchronize()
            self._beside.synchronize()

    # --- kernels ------------------------------------------------------------------------------------------------------

    def launch(self, name: str, size: tuple[int, ...], *arguments: Any) -> None:
        """Run a kernel of ``kernels/steps.ptx`` over ``size`` (x in threads, y and z in blocks).

        Arguments are arrays and blocks (by address), NumPy scalars, and Python ints (32 bits).
        """
        with self.current():
            if self._module is None:
                ptx = resources.files(__package__).joinpath("kernels/steps.ptx").read_bytes()
                self._module = self._driver.module_from_buffer(ptx)
            if name not in self._kernels:
                self._kernels[name] = self._module.get_function(name)
            values = [_argument(argument) for argument in arguments]
            x, y, z = (*size, 1, 1)[:3]
            self._kernels[name](*values, grid=(-(-x // _THREADS), y, z), block=(_THREADS, 1, 1), stream=self._stream)

    def converted(self, array: CudaArray, dtype: np.dtype[Any], name: str) -> CudaArray:
        """``array`` as float16 or float32, in the block of that ``name`` and type: its next conversion writes it again.

        One for all images of a batch, whichever of them ``array`` is: the stream has read it before it writes it.
        """
        kernels = {("float32", "float16"): "narrow_to_float16", ("float16", "float32"): "widen_to_float32"}
        kernel = kernels.get((array.dtype.name, dtype.name))
        if kernel is None:
            raise EngineError(f"{array.dtype} is not turned into {dtype} on the GPU")
        count = prod(array.shape)
        block = self.block(f"converted {name} {dtype.name}", count * dtype.itemsize)
        self.launch(kernel, (count,), array, np.uint64(count), block)
        return CudaArray(self, block.pointer, array.shape, dtype)

    def close(self) -> None:
        """Free everything but results that callers hold. Device arrays and graphs must not be used afterwards."""
        if self._context is None:
            return
        self.synchronize()
        for block in self._blocks.values():
            block.free()
        for slots in self._slots.values():
            self._free_slots(slots)
        self._results.close()
        with self.current():
            self._blocks.clear()
            self._pinned.clear()
            self._kernels.clear()
            self._module = self._stream = self._beside = None
        self._context = None


def _roomy(size: int) -> int:
    """``size``, up to an eighth more: sizes that differ from frame to frame soon find what fits them."""
    step = max(ALIGNMENT, 1 << max(max(size - 1, 1).bit_length() - 4, 0))
    return -(-max(size, 1) // step) * step


def _free_pinned(driver: Any, context: Any, buffer: Buffer) -> None:
    context.push()
    try:
        del buffer.array, buffer.event
    finally:
        driver.Context.pop()


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
    """The GPU of that number. By itself CUDA counts the fastest one first, which ``nvidia-smi`` does not."""
    try:
        driver.init()
        devices = [driver.Device(place) for place in range(driver.Device.count())]
    except driver.Error as error:
        raise EngineError(f"the NVIDIA driver shows no GPU ({error})", "check nvidia-smi") from None
    if VISIBLE_DEVICES not in os.environ:
        devices.sort(key=lambda device: [int(part, 16) for part in re.split("[:.]", device.pci_bus_id())])
    if not 0 <= index < len(devices):
        raise EngineError(
            f"there is no GPU {index}: {describe_visible([str(one.name()) for one in devices])}", NUMBERING
        )
    return devices[index]
