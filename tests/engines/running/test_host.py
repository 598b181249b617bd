"""The host as a device does what the functions of the package do."""

from __future__ import annotations

import numpy as np

from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.records.records import Preprocessing
from tests.projects import photo


def test_pixels_have_the_engines_type() -> None:
    device, images = HostDevice(), [photo(1), photo(2)]
    pixels = device.preprocess(images, 56, Preprocessing(), "float16")
    assert (pixels.shape, pixels.dtype) == ((2, 3, 56, 56), np.float16)
    assert np.array_equal(pixels, preprocess(images, 56, Preprocessing()).astype(np.float16))


def test_arrays_are_there_already() -> None:
    array = np.arange(3)
    assert HostDevice().fetch({"a": array})["a"] is array


def test_masks_are_those_of_the_rows_at_the_images_size() -> None:
    logits = np.full((2, 3, 4, 4), -5, np.float32)
    logits[1, 2, :, :2] = 5
    masks = HostDevice().begin_masks(logits, 1, np.array([2, 0]), (8, 12))()
    assert masks.shape == (2, 8, 12)
    assert masks[0, :, :5].all()
    assert not masks[0, :, 7:].any()
    assert not masks[1].any()


def test_it_has_a_name_and_no_memory_of_its_own() -> None:
    device = HostDevice()
    assert (device.name, device.memory(), device.queues) == (cpu_name(), None, False)
