from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.imaging.preprocess import preprocess, taps_of
from sam3_runtime.records.records import Preprocessing

SIZES = [
    (427, 640, 336),
    (300, 451, 1008),
    (720, 1280, 672),
    (512, 512, 224),
    (336, 336, 336),
    (7, 9, 112),
    (1, 1, 112),
]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width", "resolution"), SIZES)
def test_equals_the_reference_processor(height: int, width: int, resolution: int) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    size = {"height": resolution, "width": resolution}
    processor = transformers.Sam3ImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    image = noise(height, width)
    expected = processor(image, input_data_format="channels_last", return_tensors="pt")["pixel_values"].numpy()
    got = preprocess([image], resolution, Preprocessing())
    levels = np.abs(got - expected) * 127.5
    # torchvision's fixed-point path needs AVX2; without it torch resizes in float32, up to one level off.
    assert levels.max() < 1.01
    import torch

    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert np.array_equal(got, expected)


def test_more_than_four_times_smaller_is_within_one_level() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    image = noise(400, 3000)
    expected = functional.resize(torch.from_numpy(image).permute(2, 0, 1), [112, 112], antialias=True).numpy()
    got = np.rint((preprocess([image], 112, Preprocessing())[0] * 127.5) + 127.5)
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.25


def test_every_slot_of_a_batch_is_computed_alone() -> None:
    images = [noise(40, 60), noise(100, 30), noise(40, 60)]
    batch = preprocess(images, 112, Preprocessing())
    assert batch.shape == (3, 3, 112, 112)
    assert batch.dtype == np.float32
    for image, slot in zip(images, batch, strict=True):
        assert np.array_equal(preprocess([image], 112, Preprocessing())[0], slot)
    assert np.array_equal(batch[0], batch[2])


def test_mean_and_deviation_are_per_channel() -> None:
    record = Preprocessing(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    white = np.full((5, 5, 3), 255, np.uint8)
    assert preprocess([white], 14, record)[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_writes_into_a_given_buffer_and_takes_views() -> None:
    image = noise(50, 70)
    buffer = np.empty((1, 3, 112, 112), np.float32)
    assert preprocess([image[::-1, ::-1]], 112, Preprocessing(), buffer) is buffer
    assert np.array_equal(buffer, preprocess([image[::-1, ::-1].copy()], 112, Preprocessing()))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        "photo.png",
    ],
)
def test_refuses_what_is_no_image(array: object) -> None:
    with pytest.raises(SourceError, match="an image is"):
        preprocess([array], 112, Preprocessing())  # type: ignore[list-item]


def test_no_images_make_an_empty_batch() -> None:
    assert preprocess([], 112, Preprocessing()).shape == (0, 3, 112, 112)


@pytest.mark.parametrize(("source", "target"), [(1, 5), (5, 1), (640, 336), (336, 336), (7, 112), (3840, 1008)])
def test_the_weights_of_every_output_are_whole_numbers_inside_the_source(source: int, target: int) -> None:
    taps = taps_of(source, target)
    assert taps.weights.dtype == taps.first.dtype == np.int32
    assert taps.weights.min() >= 0
    assert taps.weights.max() < 1 << 15
    sums = taps.weights.sum(axis=1) / 2.0**taps.bits
    assert np.abs(sums - 1).max() <= taps.weights.shape[1] / 2.0**taps.bits
    assert taps.first.min() >= 0
    for first, weights in zip(taps.first, taps.weights, strict=True):
        assert not weights[max(source - int(first), 0) :].any()  # nothing is read behind the last pixel
    # No sum of 8-bit values leaves 31 bits, in which they are added on a GPU.
    assert 255 * int(taps.weights.sum(axis=1).max()) + (1 << taps.bits) < 1 << 31
