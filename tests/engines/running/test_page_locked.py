"""Results that lie in page-locked memory: whose it is, and when it is used again."""

from __future__ import annotations

import gc
from threading import Thread

import numpy as np
import pytest

from sam3_runtime.engines.running import page_locked
from sam3_runtime.engines.running.page_locked import Buffer, Pool

BYTE = np.dtype(np.uint8)


class Memory:
    """Counts what is made and freed."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.freed: list[int] = []
        self.pool = Pool(self.make, self.free)

    def make(self, size: int) -> Buffer:
        self.made.append(size)
        return Buffer(np.zeros(size, np.uint8), None)

    def free(self, buffer: Buffer) -> None:
        self.freed.append(len(buffer.array))

    def result(self, *values: int) -> np.ndarray:
        """What a GPU has written: ``values``."""
        buffer = self.pool.take(len(values))
        buffer.array[: len(values)] = values
        return self.pool.hand_over(buffer, (len(values),), BYTE)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_a_result_is_the_memory_itself_until_it_is_forgotten(memory: Memory) -> None:
    buffer = memory.pool.take(4)
    found = memory.pool.hand_over(buffer, (2, 2), BYTE)
    assert np.shares_memory(found, buffer.array)
    assert memory.result(5, 6, 7).tolist() == [5, 6, 7]
    assert memory.made == [4, 3], "what is held is not written again"
    del found
    assert memory.result(1, 2, 3, 4).tolist() == [1, 2, 3, 4]
    assert memory.made == [4, 3]


def test_a_view_keeps_it(memory: Memory) -> None:
    row = memory.result(1, 2, 3, 4).reshape(2, 2)[1].view(np.int8)[:1]
    gc.collect()
    memory.result(9, 9, 9, 9)
    assert row.tolist() == [3]
    assert len(memory.made) == 2


def test_the_smallest_that_fits_is_taken(memory: Memory) -> None:
    held = [memory.result(*range(size)) for size in (8, 2, 4)]
    held.clear()
    assert len(memory.pool.take(3).array) == 4
    assert len(memory.pool.take(3).array) == 8
    assert (memory.made, memory.freed) == ([8, 2, 4], [])


def test_one_that_is_too_small_is_replaced(memory: Memory) -> None:
    memory.result(1)
    memory.result(1, 2, 3)
    assert (memory.made, memory.freed) == ([1, 3], [1])


def test_whoever_keeps_much_gets_copies(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_locked, "LENT", 10)
    kept = [memory.result(*[value] * 4) for value in range(6)]
    assert [one[0] for one in kept] == [0, 1, 2, 3, 4, 5]
    assert memory.made == [4, 4, 4], "two are held, and one is copied from"
    del kept[:2]
    memory.result(7, 7, 7, 7)
    lent = memory.result(8, 8, 8, 8)
    assert not lent.flags.owndata


def test_a_result_outlives_the_pool(memory: Memory) -> None:
    kept, dropped = memory.result(1, 2), memory.result(3)
    del dropped
    memory.pool.close()
    assert memory.freed == [1]
    assert kept.tolist() == [1, 2]
    forget = Thread(target=lambda held: held.clear(), args=([kept],))
    del kept
    forget.start()
    forget.join()
    del forget
    gc.collect()
    assert memory.freed == [1, 2]


def test_a_result_may_be_empty_and_of_any_type(memory: Memory) -> None:
    assert memory.pool.hand_over(memory.pool.take(0), (0, 3), BYTE).shape == (0, 3)
    wide = memory.pool.hand_over(memory.pool.take(16), (2,), np.dtype(np.int64))
    assert wide.dtype == np.int64
    assert len(wide) == 2
