"""The steps around the engines on a fake GPU, whose kernels do in NumPy what the real ones do."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.engines.running.cuda import Cuda
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.records.records import Preprocessing
from tests.engines.running.fake_gpu import FakeGpu

UNEVEN = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZES = [(48, 64), (112, 112), (9, 7), (33, 1), (1, 50), (1, 1), (130, 257), (300, 40)]


@pytest.fixture
def device(opened: Cuda) -> CudaDevice:
    return CudaDevice(opened)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def closed(device: CudaDevice, gpu: FakeGpu) -> None:
    device.close()
    assert gpu.used == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_preprocessing_is_the_hosts(device: CudaDevice, gpu: FakeGpu, size: tuple[int, int], dtype: str) -> None:
    found = np.asarray(device.preprocess([picture(*size)], 112, UNEVEN, dtype))
    assert np.array_equal(found, preprocess([picture(*size)], 112, UNEVEN).astype(dtype))
    assert found.dtype == np.dtype(dtype)
    closed(device, gpu)


def test_what_no_kernel_does_is_done_on_the_host(device: CudaDevice, gpu: FakeGpu) -> None:
    cropped = Preprocessing(fit="crop", crop=0.875, resample="bicubic-antialias")
    found = device.preprocess([picture(48, 64)], 56, cropped, "float16")
    assert np.array_equal(np.asarray(found), preprocess([picture(48, 64)], 56, cropped).astype("float16"))
    closed(device, gpu)


def test_pictures_of_all_sizes_together(device: CudaDevice, gpu: FakeGpu) -> None:
    pictures = [picture(*size, seed=place) for place, size in enumerate(SIZES)]
    for chosen in (pictures, pictures[::-1], pictures[2:3], pictures):
        found = device.preprocess(chosen, 56, Preprocessing(), "float32")
        assert found.shape == (len(chosen), 3, 56, 56)
        assert np.array_equal(np.asarray(found), preprocess(chosen, 56, Preprocessing()))
    closed(device, gpu)


def test_more_sizes_than_are_remembered(device: CudaDevice, gpu: FakeGpu) -> None:
    pictures = [picture(20 + place, 90 + place) for place in range(24)]
    wanted = preprocess(pictures, 28, Preprocessing())
    for start in range(0, 24, 6):
        found = device.preprocess(pictures[start : start + 6], 28, Preprocessing(), "float32")
        assert np.array_equal(np.asarray(found), wanted[start : start + 6])
        assert len(gpu.memory) < 2 * 16 + 14  # the tables of so many sizes, six pictures, and a few buffers
    closed(device, gpu)


def test_the_tables_that_are_used_stay_when_others_are_freed(device: CudaDevice, opened: Cuda, gpu: FakeGpu) -> None:
    """An image of one size at each turn, beside more sizes than are remembered."""
    device.preprocess([picture(30, 30)], 28, Preprocessing(), "float32")
    kept = {key: [block.pointer for block in blocks] for key, blocks in device._tables.items()}
    assert len(kept) == 2, "of the statistics, and of 30 pixels"
    for place in range(24):
        device.preprocess([picture(31 + place, 30)], 28, Preprocessing(), "float32")
        assert {key: [block.pointer for block in device._tables[key]] for key in kept} == kept
    assert len(device._tables) == 16
    before = opened.allocations
    device.preprocess([picture(54, 30)], 28, Preprocessing(), "float32")
    assert opened.allocations == before
    closed(device, gpu)


def test_other_statistics(device: CudaDevice, gpu: FakeGpu) -> None:
    for chosen in (UNEVEN, Preprocessing(), UNEVEN):
        found = np.asarray(device.preprocess([picture(20, 30)], 28, chosen, "float32"))
        assert np.array_equal(found, preprocess([picture(20, 30)], 28, chosen))
    closed(device, gpu)


def test_the_picture_may_change_at_once(device: CudaDevice, gpu: FakeGpu) -> None:
    shown = picture(20, 30)
    wanted = preprocess([shown], 28, Preprocessing())
    found = device.preprocess([shown], 28, Preprocessing(), "float32")
    shown[:] = 0
    assert np.array_equal(np.asarray(found), wanted)
    closed(device, gpu)


def test_it_works_in_other_threads(device: CudaDevice, gpu: FakeGpu) -> None:
    def work() -> None:
        for place in range(24):
            device.preprocess([picture(20 + place, 30)], 28, UNEVEN, "float32")
        device.preprocess([picture(20, 30)], 28, Preprocessing(), "float32")
        device.close()

    device.preprocess([picture(20, 30)], 28, Preprocessing(), "float32")
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert gpu.used == 0


def test_what_is_no_picture_is_refused(device: CudaDevice) -> None:
    with pytest.raises(SourceError, match="an image is RGB uint8"):
        device.preprocess([np.zeros((4, 4), np.uint8)], 28, Preprocessing(), "float32")


def test_arrays_of_the_host_are_fetched_as_they_are(device: CudaDevice) -> None:
    there, here = device.preprocess([picture(9, 9)], 14, UNEVEN, "float32"), np.arange(3)
    found = device.fetch({"here": here, "there": there})
    assert list(found) == ["here", "there"]
    assert found["here"] is here
    assert found["there"].shape == (1, 3, 14, 14)
    assert device.fetch({}) == {}
    with pytest.raises(TypeError, match="logits of masks must be on this device"):
        device.begin_masks(np.zeros((1, 1, 2, 2), np.float32), 0, np.asarray([0]), (2, 2))
