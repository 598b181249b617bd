"""The kernels of ``steps.ptx`` and device memory on a real GPU, compared with the host's functions."""

from __future__ import annotations

import gc
import threading
from functools import partial

import cv2
import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.cuda import Cuda, CudaArray
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.cuda_graphs import capture
from sam3_runtime.imaging.postprocess import resize_masks
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.records.records import Preprocessing
from tests.gpu.conftest import made_up

pytestmark = pytest.mark.gpu

UNEVEN = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZES = [(480, 640), (1080, 1920), (100, 77), (333, 1), (1, 500), (1, 1), (672, 672), (37, 1009)]


def on_device(device: CudaDevice, array: np.ndarray, name: str = "test") -> CudaArray:
    block = device.cuda.block(f"{name} {array.shape} {array.dtype}", array.nbytes)
    device.cuda.upload(block, array)
    device.synchronize()
    return CudaArray(device.cuda, block.pointer, array.shape, array.dtype)


# --- preprocessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("resolution", [560, 1008])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_preprocessing_is_the_hosts(device: CudaDevice, size: tuple[int, int], resolution: int, dtype: str) -> None:
    picture = made_up(*size)
    found = np.asarray(device.preprocess([picture], resolution, UNEVEN, dtype))
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, preprocess([picture], resolution, UNEVEN).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pictures_of_all_sizes_together(device: CudaDevice, dtype: str) -> None:
    pictures = [made_up(*size, seed=place) for place, size in enumerate(SIZES)]
    for _ in range(3):
        found = np.asarray(device.preprocess(pictures, 672, Preprocessing(), dtype))
        assert np.array_equal(found, preprocess(pictures, 672, Preprocessing()).astype(dtype))
        pictures.reverse()


def test_more_sizes_than_are_remembered(device: CudaDevice) -> None:
    pictures = [made_up(100 + 3 * place, 90 + 2 * place, seed=place) for place in range(24)]
    wanted = preprocess(pictures, 56, Preprocessing())
    for picture, expected in zip(pictures, wanted, strict=True):
        assert np.array_equal(np.asarray(device.preprocess([picture], 56, Preprocessing(), "float32"))[0], expected)


@pytest.mark.parametrize(("resolution", "share"), [(1008, 0.0), (560, 1e-4)], ids=["exact", "beyond four times"])
def test_a_4k_picture(device: CudaDevice, resolution: int, share: float) -> None:
    """Where a source is more than four times the resolution, the host's own float32 sums are not quite exact."""
    picture = made_up(2160, 3840)
    wanted = preprocess([picture], resolution, Preprocessing())
    found = np.asarray(device.preprocess([picture], resolution, Preprocessing(), "float32"))
    assert (found != wanted).mean() <= share
    assert np.abs(found - wanted).max() < 1.01 / 127.5  # one level of 255


def test_a_view_of_a_picture(device: CudaDevice) -> None:
    picture = made_up(300, 400)[::-1, 20:350]
    found = np.asarray(device.preprocess([picture], 224, Preprocessing(), "float32"))
    assert np.array_equal(found, preprocess([picture], 224, Preprocessing()))


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "size", [(1080, 1920), (480, 640), (288, 288), (100, 77), (300, 1), (1, 9), (2160, 3840)], ids=str
)
def test_masks_are_the_hosts(device: CudaDevice, size: tuple[int, int], dtype: str) -> None:
    random = np.random.default_rng(5)
    smooth = [cv2.resize(one, (288, 288), interpolation=cv2.INTER_CUBIC) for one in random.normal(0, 6, (12, 17, 17))]
    logits = np.stack(smooth).reshape(2, 6, 288, 288).astype(dtype)
    rows = np.asarray([0, 2, 3, 5])
    packed = device.begin_masks(on_device(device, logits), 1, rows, size)()
    wanted = resize_masks(logits[1, rows], size)
    found = packed.unpack()
    assert found.shape == wanted.shape
    assert 0.1 < wanted.mean() < 0.9
    assert (found != wanted).sum() <= max(1, found.size // 10_000)
    spare = packed.bits.shape[2] * 8 - size[1]
    assert not (packed.bits[:, :, -1] & ((1 << spare) - 1)).any()


def test_masks_that_were_begun_outlive_their_logits(device: CudaDevice) -> None:
    logits = np.where(np.indices((1, 3, 64, 64))[3] < 20, 5.0, -5.0).astype(np.float32)
    there = on_device(device, logits)
    finish = device.begin_masks(there, 0, np.asarray([1]), (64, 64))
    device.cuda.stage("over", there, -logits)
    second = device.begin_masks(there, 0, np.asarray([1, 2]), (64, 64))
    assert np.array_equal(finish().unpack(), logits[0, 1:2] > 0)
    assert np.array_equal(second().unpack(), logits[0, 1:3] < 0)


def test_no_masks(device: CudaDevice) -> None:
    logits = on_device(device, np.zeros((1, 3, 8, 8), np.float16))
    assert device.begin_masks(logits, 0, np.asarray([], np.intp), (5, 9))().unpack().shape == (0, 5, 9)


# --- memory and transfers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "into"), [("float32", "float16"), ("float16", "float32")])
@pytest.mark.parametrize("count", [1, 255, 257, 1_000_003])
def test_conversions_are_numpys(device: CudaDevice, of: str, into: str, count: int) -> None:
    random = np.random.default_rng(count)
    with np.errstate(over="ignore"):
        values = (random.normal(0, 1, count) * 10.0 ** random.integers(-9, 6, count)).astype(of)
        wanted = values.astype(into)
    assert np.array_equal(np.asarray(on_device(device, values).astype(into, "values")), wanted)


def test_rows_are_views(device: CudaDevice) -> None:
    values = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    array = on_device(device, values)
    assert np.array_equal(np.asarray(array[1:3]), values[1:3])
    assert np.array_equal(np.asarray(array[2:][1:]), values[3:])
    assert array[1:3].pointer == array.pointer + values[0].nbytes
    assert np.asarray(array[4:]).shape == (0, 6, 5)


def test_several_arrays_are_fetched_together(device: CudaDevice) -> None:
    arrays = [np.arange(7, dtype=np.float16), np.asarray([[True, False, True]]), np.arange(5, dtype=np.int64)]
    found = device.fetch({str(n): on_device(device, array) for n, array in enumerate(arrays)} | {"host": arrays[0]})
    for n, array in enumerate(arrays):
        assert np.array_equal(found[str(n)], array)
        assert found[str(n)].flags.writeable
    assert found["host"] is arrays[0]


def test_memory_is_taken_and_given_back(device: CudaDevice) -> None:
    before, total = device.memory()
    assert 0 < before <= total
    block = device.cuda.alloc(512 << 20)
    assert block.pointer % 256 == 0
    assert before - device.memory()[0] >= 500 << 20
    thread = threading.Thread(target=block.free)
    thread.start()
    thread.join()
    assert before - device.memory()[0] < 32 << 20


def test_out_of_memory_is_one_message(device: CudaDevice) -> None:
    _, total = device.memory()
    with pytest.raises(
        EngineError, match=rf"out of GPU memory: {2 * total >> 20} MiB more .* of {total >> 20} MiB are"
    ):
        device.cuda.alloc(2 * total)
    block = device.cuda.alloc(1 << 20)  # it goes on
    assert block.size == 1 << 20
    block.free()


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="there is no GPU 99: this machine shows"):
        Cuda(99)


def test_opening_and_closing_leaves_nothing(device: CudaDevice) -> None:
    def once() -> None:
        cuda = Cuda()
        cuda.block("a", 64 << 20)
        cuda.fetch([CudaArray(cuda, cuda.block("a", 1).pointer, (1000,), np.uint8)])
        cuda.close()

    once()
    gc.collect()
    before = device.memory()[0]
    for _ in range(3):
        once()
        thread = threading.Thread(target=once)
        thread.start()
        thread.join()
    gc.collect()
    assert before - device.memory()[0] < 32 << 20
    assert np.asarray(on_device(device, np.arange(3))).tolist() == [0, 1, 2]


def test_a_graph_repeats_what_was_captured(device: CudaDevice) -> None:
    values = on_device(device, np.arange(1000, dtype=np.float32))
    made = values.astype("float16", "values")
    narrow = partial(device.cuda.launch, "narrow_to_float16", (1000,), values, np.uint64(1000), made)
    graph = capture(device.cuda, narrow)
    assert graph is not None
    device.cuda.stage("over", values, np.full(1000, 7, np.float32))
    graph.launch()
    assert set(np.asarray(made).tolist()) == {7.0}
    graph.close()
