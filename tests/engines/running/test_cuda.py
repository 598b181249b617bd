"""Device memory, transfers, kernels and graphs, on a fake GPU."""

from __future__ import annotations

import gc
import re
import sys
import threading
from importlib import resources

import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.base import EngineOptions
from sam3_runtime.engines.running.cuda import ALIGNMENT, Cuda, CudaArray, Slot
from tests.engines.running.fake_gpu import Card, FakeGpu
from tests.engines.running.fake_kernels import FUNCTIONS, signatures


def filled(cuda: Cuda, array: np.ndarray) -> CudaArray:
    """A copy of ``array`` on the device, in a block that stays."""
    block = cuda.block(f"test {len(array)} {array.dtype}", array.nbytes)
    cuda.upload(block, array)
    cuda.synchronize()
    return CudaArray(cuda, block.pointer, array.shape, array.dtype)


def in_a_thread(work: object) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


# --- opening and closing ----------------------------------------------------------------------------------------------


def test_the_card_is_named(opened: Cuda, gpu: FakeGpu) -> None:
    assert (opened.name, opened.compute_capability) == ("Fake H200", "9.0")
    assert opened.memory() == (gpu.total, gpu.total)
    assert EngineOptions().gpu == 0


def test_without_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(EngineError, match=r"pycuda.*\nHint: .*pip install 'sam3-runtime\[cuda\]'"):
        Cuda()


def test_without_a_card(gpu: FakeGpu) -> None:
    gpu.cards = []
    with pytest.raises(EngineError, match=r"shows no GPU \(cuInit failed.*\nHint: check nvidia-smi"):
        Cuda()


@pytest.mark.parametrize("index", [1, -1])
def test_a_card_that_is_not_there(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    assert len(gpu.cards) == 1
    said = (
        rf"there is no GPU {index}: this machine shows 1: 0 is Fake H200\nHint: GPUs are numbered from 0, in the order"
    )
    with pytest.raises(EngineError, match=said):
        Cuda(index)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(EngineError, match=rf"no GPU {index}: CUDA_VISIBLE_DEVICES=3 shows 1: 0 is Fake H200"):
        Cuda(index)


def test_cards_are_numbered_as_nvidia_smi_does_and_not_by_their_speed(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their places on the bus; where CUDA_VISIBLE_DEVICES is set, in its order, which is CUDA's then."""
    gpu.cards = [Card("Fast", "0000:AF:00.0"), Card("Slow", "0000:19:00.0"), Card("Far", "10000:01:00.0")]

    def names() -> list[str]:
        found = []
        for index in range(3):
            cuda = Cuda(index)
            found.append(cuda.name)
            cuda.close()
        return found

    assert names() == ["Slow", "Fast", "Far"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-fast,GPU-slow,GPU-far")
    assert names() == ["Fast", "Slow", "Far"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
def test_everything_is_freed(gpu: FakeGpu, elsewhere: bool) -> None:
    cuda = Cuda()
    cuda.stage("a", cuda.block("a", 1000), np.zeros(1000, np.uint8))
    cuda.fetch([CudaArray(cuda, cuda.block("a", 1000).pointer, (10,), np.uint8)])
    cuda.begin_fetch(cuda.slot("m", 10, 2), (10,), np.uint8)()
    cuda.send(cuda.slot("p", 10, 2), np.zeros(10, np.uint8))
    assert gpu.used >= 1000
    assert gpu.pinned
    in_a_thread(cuda.close) if elsewhere else cuda.close()
    gc.collect()
    assert (gpu.used, gpu.pinned) == (0, {})
    cuda.close()
    with pytest.raises(EngineError, match="the GPU is closed"):
        cuda.synchronize()


def test_it_can_be_opened_again(gpu: FakeGpu) -> None:
    for _ in range(2):
        cuda = Cuda()
        cuda.block("a", 10)
        cuda.close()
    del cuda
    gc.collect()
    assert (gpu.contexts, gpu.used) == (0, 0)


def test_calls_come_from_any_thread(opened: Cuda) -> None:
    array = filled(opened, np.arange(6, dtype=np.float32))
    found = []
    in_a_thread(lambda: found.append(np.asarray(array)))
    assert found[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_grows_in_another_thread_is_freed_there(opened: Cuda, gpu: FakeGpu) -> None:
    opened.block("a", 1000)
    opened.stage("s", opened.block("s", 4000), np.zeros(10, np.uint8))
    opened.begin_fetch(opened.slot("m", 100, 1), (100,), np.uint8)()
    opened.send(opened.slot("p", 100, 1), np.zeros(100, np.uint8))

    def grow() -> None:
        opened.block("a", 2000)
        opened.stage("s", opened.block("s", 4000), np.zeros(3000, np.uint8))
        opened.begin_fetch(opened.slot("m", 3000, 1), (3000,), np.uint8)()
        opened.send(opened.slot("p", 3000, 1), np.zeros(3000, np.uint8))
        opened.synchronize()

    in_a_thread(grow)
    gc.collect()
    assert gpu.faults == []
    assert sorted(len(block) for block in gpu.memory.values()) == [2000, 3000, 3000, 4000]
    assert len(gpu.pinned) == 3


# --- memory -----------------------------------------------------------------------------------------------------------


def test_out_of_memory_says_how_much_there_is(opened: Cuda, gpu: FakeGpu) -> None:
    gpu.total = 64 << 20
    opened.block("a", 16 << 20)
    with pytest.raises(EngineError, match=r"100 MiB more are needed, and 48 of 64 MiB are free on Fake H200"):
        opened.alloc(100 << 20)
    assert opened.allocations == 1


def test_a_block_grows_when_what_was_in_it_is_done(opened: Cuda, gpu: FakeGpu) -> None:
    small = opened.block("a", 100)
    assert opened.block("a", 50) is small
    opened.upload(small, np.zeros(100, np.uint8))  # still waits on the stream
    large = opened.block("a", 200)
    assert large.size == 200
    assert gpu.used == 256
    opened.synchronize()


def test_rows_are_taken_by_address(opened: Cuda) -> None:
    array = filled(opened, np.arange(24, dtype=np.float16).reshape(4, 3, 2))
    assert (len(array), array.ndim, array.nbytes) == (4, 3, 48)
    rows = array[1:3]
    assert (rows.pointer - array.pointer, rows.shape) == (12, (2, 3, 2))
    assert np.asarray(rows).tolist() == [[[6, 7], [8, 9], [10, 11]], [[12, 13], [14, 15], [16, 17]]]
    assert rows[1:9].shape == (1, 3, 2)
    assert array[3:1].shape == (0, 3, 2)
    assert np.asarray(array[3:1]).shape == (0, 3, 2)
    with pytest.raises(IndexError, match="in steps of 1 only"):
        array[::2]


def test_numpy_gets_a_copy(opened: Cuda) -> None:
    array = filled(opened, np.arange(4, dtype=np.float32))
    copy = np.asarray(array)
    copy[0] = 9
    assert np.asarray(array)[0] == 0
    assert np.asarray(array, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="as a copy"):
        array.__array__(copy=False)


# --- transfers --------------------------------------------------------------------------------------------------------


def test_what_was_staged_may_change_at_once(opened: Cuda) -> None:
    block = opened.block("a", 400)
    array = np.ones(100, np.float32)
    opened.stage("a", block, array)
    array[:] = 2
    other = opened.block("b", 400)
    opened.stage("a", other, array)  # the same buffer again, which waits for its first copy
    array[:] = 3
    made = [CudaArray(opened, one.pointer, (100,), np.float32) for one in (block, other)]
    assert [set(found.tolist()) for found in opened.fetch(made)] == [{1.0}, {2.0}]


def test_a_slice_of_a_picture_is_staged_as_it_looks(opened: Cuda) -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[::-1, 1:4]
    block = opened.block("a", picture.nbytes)
    opened.stage("a", block, picture)
    assert np.array_equal(np.asarray(CudaArray(opened, block.pointer, picture.shape, np.uint8)), picture)


def test_several_arrays_are_fetched_together(opened: Cuda, gpu: FakeGpu) -> None:
    arrays = [np.arange(3, dtype=np.float16), np.asarray([[True, False]]), np.zeros((0, 4), np.float32)]
    there = [filled(opened, array) for array in arrays[:2]]
    there.append(CudaArray(opened, there[0].pointer, (0, 4), np.float32))
    found = opened.fetch(there)
    assert gpu.count_of("dtoh") == 2
    for one, wanted in zip(found, arrays, strict=True):
        assert one.dtype == wanted.dtype
        assert np.array_equal(one, wanted)


def test_what_was_fetched_belongs_to_the_caller(opened: Cuda) -> None:
    array = filled(opened, np.arange(3, dtype=np.float32))
    first = opened.fetch([array])[0]
    opened.stage("over", array, np.full(3, 7, np.float32))
    assert opened.fetch([array])[0].tolist() == [7, 7, 7]
    assert first.tolist() == [0, 1, 2]


def fill(cuda: Cuda, slot: Slot, values: np.ndarray) -> None:
    """Let the stream write ``values`` into ``slot``, as a kernel would."""
    staged = cuda.block(f"written {len(values)} {values[0]}", values.nbytes)
    cuda.upload(staged, values)
    cuda.copy(slot.block.pointer, CudaArray(cuda, staged.pointer, values.shape, values.dtype))


def test_what_is_fetched_beside_is_not_overwritten_before(opened: Cuda) -> None:
    """Five arrays through two slots; the stream is waited for before any of them."""
    begun = []
    for value in range(5):
        slot = opened.slot("bits", 20, of=2)
        fill(opened, slot, np.full(5, value, np.int32))
        begun.append(opened.begin_fetch(slot, (5,), np.int32))
    opened.fetch([CudaArray(opened, slot.block.pointer, (5,), np.int32)])
    assert [finish().tolist() for finish in reversed(begun)] == [[value] * 5 for value in (4, 3, 2, 1, 0)]


def test_what_is_sent_beside_waits_for_whoever_reads_the_last(opened: Cuda) -> None:
    """Four pictures through two slots; each is read on the stream, and the host's array is changed at once."""
    picture, read = np.empty(6, np.uint8), []
    for value in range(4):
        slot = opened.slot("image", 6, of=2)
        picture[:] = value
        opened.send(slot, picture)
        array = CudaArray(opened, opened.block(f"read {value}", 6).pointer, (6,), np.uint8)
        opened.copy(array.pointer, CudaArray(opened, slot.block.pointer, (6,), np.uint8))
        opened.sent(slot)
        read.append(array)
    assert [found.tolist() for found in opened.fetch(read)] == [[value] * 6 for value in range(4)]


def test_a_slot_that_grows_waits_for_its_transfer(opened: Cuda) -> None:
    small = opened.slot("bits", 8, of=1)
    fill(opened, small, np.full(2, 3, np.int32))
    first = opened.begin_fetch(small, (2,), np.int32)
    large = opened.slot("bits", 800, of=1)
    fill(opened, large, np.full(200, 4, np.int32))
    second = opened.begin_fetch(large, (200,), np.int32)
    assert second().tolist() == [4] * 200
    assert first().tolist() == [3, 3]


def test_page_locked_buffers_are_used_again(opened: Cuda, gpu: FakeGpu) -> None:
    def some(*sizes: int) -> list[int]:
        begun = [opened.begin_fetch(opened.slot("bits", 4 * size, of=3), (size,), np.float32) for size in sizes]
        return [len(finish()) for finish in begun]

    for _ in range(3):
        assert some(100, 500, 300) == [100, 500, 300]
    for _ in range(3):
        some(500, 500, 500)
    warm = opened.allocations
    assert len(gpu.pinned) == 3
    for _ in range(4):
        assert some(100, 100, 300) == [100, 100, 300]
    assert (opened.allocations, len(gpu.pinned)) == (warm, 3)


def test_copies_stay_on_the_device(opened: Cuda, gpu: FakeGpu) -> None:
    array = filled(opened, np.arange(4, dtype=np.float32))
    target = opened.block("b", 16)
    opened.copy(target.pointer, array)
    assert gpu.count_of("dtoh") == 0
    assert np.asarray(CudaArray(opened, target.pointer, (4,), np.float32)).tolist() == [0, 1, 2, 3]


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "into"), [("float32", "float16"), ("float16", "float32")])
def test_conversions(opened: Cuda, of: str, into: str) -> None:
    values = np.linspace(-5, 5, 1000, dtype=of).reshape(10, 100)
    array = filled(opened, values)
    assert array.astype(of, "a") is array
    made = array.astype(into, "a")
    assert made.dtype == np.dtype(into)
    assert np.array_equal(np.asarray(made), values.astype(into))
    with pytest.raises(EngineError, match=f"{of} cannot be converted to int64"):
        array.astype("int64", "a")


def test_conversions_of_one_name_share_a_block(opened: Cuda, gpu: FakeGpu) -> None:
    array = filled(opened, np.arange(12, dtype=np.float32).reshape(4, 3))
    other = array.astype("float16", "other")
    whole = array.astype("float16", "a")
    used = gpu.used
    for row in range(4):
        one = array[row : row + 1].astype("float16", "a")
        assert one.pointer == whole.pointer
        assert np.asarray(one).tolist() == [[3 * row, 3 * row + 1, 3 * row + 2]]
    assert gpu.used == used
    assert np.asarray(other).ravel().tolist() == list(range(12))


def test_every_kernel_is_in_the_ptx_with_as_many_arguments() -> None:
    ptx = resources.files("sam3_runtime.engines.running").joinpath("kernels/steps.ptx").read_text()
    entries = re.findall(r"\.visible \.entry (\w+)\(([^)]*)\)", ptx)
    assert {name: len(re.findall(r"\.param", listed)) for name, listed in entries} == {
        name: len(kinds) for name, kinds in signatures().items()
    }
    assert FUNCTIONS.keys() == signatures().keys()


def test_a_driver_of_any_supported_card_reads_the_ptx() -> None:
    ptx = resources.files("sam3_runtime.engines.running").joinpath("kernels/steps.ptx").read_text()
    assert ".version 6.3" in ptx
    assert ".target sm_75" in ptx


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_blocks_are_aligned_and_freed_once(opened: Cuda, gpu: FakeGpu) -> None:
    block = opened.alloc(10)
    assert block.pointer % ALIGNMENT == 0
    in_a_thread(block.free)
    block.free()
    assert gpu.used == 0
