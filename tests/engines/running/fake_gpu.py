"""A module ``pycuda.driver`` whose GPU is a few NumPy arrays at made-up addresses.

Stricter than the real one where that finds mistakes. What is put on a stream happens only when somebody waits for it,
or another stream does, so that reading or overwriting too early shows. No address is used twice, so that memory which
was freed is never mistaken for other memory. Calls need a context that was pushed by their own thread; what is freed
elsewhere than in the context or in the thread that made it is not freed, as with pycuda. Broken rules that no caller
sees are in ``faults``.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tests.engines.running.fake_graphs import FakeGraphs, Operation
from tests.engines.running.fake_kernels import KERNELS, THREADS

_ALIGNMENT = 256
_FIRST_ADDRESS = 0x7F00_0000_0000


class Error(Exception):
    """``pycuda.driver.Error``."""


class OutOfMemory(Error):
    """``pycuda.driver.MemoryError``."""


class LogicError(Error):
    """``pycuda.driver.LogicError``."""


class Card(NamedTuple):
    name: str = "Fake H200"
    bus: str = "0000:19:00.0"
    capability: tuple[int, int] = (9, 0)


class FakeGpu:
    """One GPU of ``total`` bytes. ``log`` has a tuple for each thing done: its kind first. ``cards`` are what CUDA
    shows, in its order; all of them are this one, by other names."""

    def __init__(self, total: int = 1 << 30) -> None:
        self.total = total
        self.cards = [Card()]
        self.memory: dict[int, np.ndarray] = {}
        self.pinned: dict[int, int] = {}
        self.contexts = 0
        self.log: list[tuple[Any, ...]] = []
        self.faults: list[str] = []
        self.graphs = FakeGraphs(self)
        self._next = _FIRST_ADDRESS
        self._threads = threading.local()
        self._alone = threading.Lock()
        self._streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self._stream_count = 0

    # --- memory -------------------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        return sum(len(block) for block in self.memory.values())

    def reserve(self, size: int) -> int:
        """The address of ``size`` new bytes, which hold what nobody wrote."""
        if self.used + size > self.total:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        address, self._next = self._next, self._next + -(-size // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT
        self.memory[address] = np.full(size, 0xA5, np.uint8)
        return address

    def release(self, address: int) -> None:
        del self.memory[address]

    def view(self, address: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """The array at ``address``, which must lie in one allocation."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        for start, block in self.memory.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size].view(dtype).reshape(shape)
        raise LogicError(f"an illegal memory access: {size} bytes at {address:#x}")

    def holder(self, address: int) -> int | None:
        """The start of the allocation that ``address`` lies in."""
        return next((start for start, block in self.memory.items() if start <= address < start + len(block)), None)

    def count_of(self, kind: str) -> int:
        return sum(entry[0] == kind for entry in self.log)

    # --- contexts -----------------------------------------------------------------------------------------------------

    @property
    def stack(self) -> list[Context]:
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
        found: list[Context] = self._threads.stack
        return found

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around every call: needs a current context, and nobody else at it."""
        if not self.stack:
            raise LogicError("invalid device context: none is current in this thread")
        if not self._alone.acquire(blocking=False):
            self.faults.append("two threads were at it at once")
            raise LogicError("two threads were at it at once")
        try:
            yield
        finally:
            self._alone.release()

    def can_free(self, context: Context, what: str) -> bool:
        """As pycuda: in that context, or in the thread that opened it."""
        if context in self.stack or context.thread == threading.get_ident():
            return True
        self.faults.append(f"{what} was left behind: freed in another thread, and its context is not current there")
        return False

    # --- the stream ---------------------------------------------------------------------------------------------------

    def stream_of(self, handle: int) -> Stream:
        return self._streams[handle]

    def add_stream(self, stream: Stream) -> int:
        self._stream_count += 1
        handle = 0x5000 + self._stream_count
        self._streams[handle] = stream
        return handle

    def free_bytes(self) -> int:
        return self.total - self.used

    def driver(self) -> Any:
        """The module ``pycuda.driver``."""
        return _make_driver(self)


class Context:
    """A retained primary context."""

    def __init__(self, gpu: FakeGpu, card: Card) -> None:
        self.gpu, self.card = gpu, card
        self.thread = threading.get_ident()
        gpu.contexts += 1
        weakref.finalize(self, _forget_context, gpu)

    def push(self) -> None:
        self.gpu.stack.append(self)


def _forget_context(gpu: FakeGpu) -> None:
    gpu.contexts -= 1


class _Owned:
    """Belongs to the context that was current when it was made."""

    def __init__(self, gpu: FakeGpu) -> None:
        if not gpu.stack:
            raise LogicError("explicit_context_dependent failed: no currently active context?")
        self.gpu, self.context = gpu, gpu.stack[-1]

    def __del__(self) -> None:
        if hasattr(self, "context"):
            self.gpu.can_free(self.context, type(self).__name__)


class DeviceAllocation(_Owned):
    def __init__(self, gpu: FakeGpu, size: int) -> None:
        super().__init__(gpu)
        self._address: int | None = None
        with gpu.call():
            self._address = gpu.reserve(size)
        gpu.log.append(("alloc", size))

    def __int__(self) -> int:
        assert self._address is not None, "this memory was freed"
        return self._address

    def free(self) -> None:
        if self._address is None:
            raise LogicError("device_allocation::free failed: invalid handle")
        address, self._address = self._address, None
        if self.gpu.can_free(self.context, "device memory"):
            self.gpu.release(address)

    def __del__(self) -> None:
        if getattr(self, "_address", None) is not None:
            self.gpu.faults.append(f"{len(self.gpu.memory[int(self)])} bytes were forgotten, not freed")
            self.free()


class Stream(_Owned):
    """Operations that wait until somebody waits for them; where a capture is on, they go into the graph instead."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__(gpu)
        self.queue: deque[Operation] = deque()
        self.done = self.given = 0
        self.captured: list[Operation] | None = None
        self.handle = gpu.add_stream(self)

    def put(self, operation: Operation) -> None:
        if self.captured is not None:
            self.captured.append(operation)
            return
        self.queue.append(operation)
        self.given += 1

    def wait_for_event(self, event: Event) -> None:
        with self.gpu.call():
            if event.mark is not None:
                self.put(partial(event.mark[0].run_to, event.mark[1]))

    def run_to(self, place: int) -> None:
        while self.done < place:
            self.done += 1
            self.queue.popleft()()

    def synchronize(self) -> None:
        with self.gpu.call():
            if self.captured is not None:
                self.captured = None
                raise LogicError("operation not permitted when stream is capturing")
            self.run_to(self.given)


class Event(_Owned):
    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__(gpu)
        self.mark: tuple[Stream, int] | None = None

    def record(self, stream: Stream) -> None:
        with self.gpu.call():
            self.mark = stream, stream.given

    def synchronize(self) -> None:
        # Needs no context: cuEventSynchronize knows its own. An event that was never recorded is over.
        if self.mark is not None:
            stream, place = self.mark
            stream.run_to(place)


def _make_driver(gpu: FakeGpu) -> Any:
    class Device:
        count = staticmethod(lambda: len(gpu.cards))

        def __init__(self, index: int) -> None:
            self._card = gpu.cards[index]

        def name(self) -> str:
            return self._card.name

        def pci_bus_id(self) -> str:
            return self._card.bus

        def compute_capability(self) -> tuple[int, int]:
            return self._card.capability

        def retain_primary_context(self) -> Context:
            return Context(gpu, self._card)

    def init() -> None:
        if not gpu.cards:
            raise LogicError("cuInit failed: no CUDA-capable device is detected")

    def mem_get_info() -> tuple[int, int]:
        with gpu.call():
            return gpu.free_bytes(), gpu.total

    def pagelocked_empty(shape: Any, dtype: Any) -> np.ndarray:
        owner = _Owned(gpu)
        made = np.full(shape, 0x5A, dtype)
        address = made.ctypes.data
        gpu.pinned[address] = made.nbytes
        gpu.log.append(("pinned", made.nbytes))
        weakref.finalize(made, _forget_pinned, gpu, owner.context, address)
        return made

    def is_pinned(array: np.ndarray) -> bool:
        at = array.ctypes.data
        return any(start <= at and at + array.nbytes <= start + size for start, size in gpu.pinned.items())

    def memcpy_htod_async(target: int, source: np.ndarray, stream: Stream) -> None:
        assert isinstance(target, int)
        assert source.flags.c_contiguous
        with gpu.call():
            kept = source if is_pinned(source) else source.copy()  # other memory is staged by the driver at once
            gpu.log.append(("htod", target, source.nbytes))

            def operation() -> None:
                gpu.view(target, (kept.nbytes,), np.uint8)[:] = kept.reshape(-1).view(np.uint8)

            stream.put(operation)

    def memcpy_dtoh_async(target: np.ndarray, source: int, stream: Stream) -> None:
        assert is_pinned(target), "the host waits for copies to memory that is not page-locked"
        with gpu.call():
            gpu.log.append(("dtoh", source, target.nbytes))

            def operation() -> None:
                target.reshape(-1).view(np.uint8)[:] = gpu.view(source, (target.nbytes,), np.uint8)

            stream.put(operation)

    def memcpy_dtod_async(target: int, source: int, size: int, stream: Stream) -> None:
        with gpu.call():
            gpu.log.append(("dtod", source, size))

            def operation() -> None:
                gpu.view(target, (size,), np.uint8)[:] = gpu.view(source, (size,), np.uint8)

            stream.put(operation)

    class Module(_Owned):
        def __init__(self, ptx: bytes) -> None:
            super().__init__(gpu)
            self._text = ptx.decode()

        def get_function(self, name: str) -> Callable[..., None]:
            if f".visible .entry {name}(" not in self._text:
                raise LogicError(f"cuModuleGetFunction failed: named symbol not found: {name}")
            kernel, kinds = KERNELS[name]

            def launch(*arguments: Any, grid: tuple[int, int, int], block: tuple[int, int, int], stream: Any) -> None:
                assert [type(one) for one in arguments] == kinds, f"{name} takes other arguments"
                assert block == (THREADS, 1, 1)
                assert all(0 < size <= limit for size, limit in zip(grid, (2**31, 65535, 65535), strict=True))
                values = [int(one) for one in arguments]
                with gpu.call():
                    gpu.log.append(("kernel", name))
                    stream.put(lambda: kernel(gpu.view, grid, *values))

            return launch

    return SimpleNamespace(
        Error=Error, MemoryError=OutOfMemory, LogicError=LogicError, init=init, Device=Device,
        Context=SimpleNamespace(pop=lambda: gpu.stack.pop()), Stream=lambda: Stream(gpu), Event=lambda _: Event(gpu),
        event_flags=SimpleNamespace(DISABLE_TIMING=2), mem_alloc=lambda size: DeviceAllocation(gpu, size),
        mem_get_info=mem_get_info, pagelocked_empty=pagelocked_empty, memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async, memcpy_dtod_async=memcpy_dtod_async, module_from_buffer=Module,
    )  # fmt: skip


def _forget_pinned(gpu: FakeGpu, context: Context, address: int) -> None:
    if gpu.can_free(context, "page-locked memory"):
        del gpu.pinned[address]
