"""Cropping and the other filters are timm's own transform, bit for bit; records without them stay as they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("timm")
from timm.data import create_transform, resolve_data_config

from sam3_runtime.core.errors import SourceError
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.records.records import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(1, 1), (1, 40), (33, 47), (224, 224), (225, 226), (236, 500), (427, 640), (640, 427), (31, 900), (901, 30)]
FITS = {"center": "crop", "squash": "stretch"}


def photo(height: int, width: int) -> np.ndarray:
    """All values of 8 bits, and edges that filters overshoot at."""
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    image[height // 3 : height // 2] = 255
    return image


@pytest.mark.parametrize("mode", FITS)
@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("resolution", "crop"), [(224, 0.875), (64, 0.95), (97, 1.0), (128, 0.9)])
def test_it_is_timms_transform(mode: str, filter_name: str, resolution: int, crop: float) -> None:
    trained = {"interpolation": filter_name, "crop_pct": crop, "crop_mode": mode, "mean": MEAN, "std": STD}
    size = {"input_size": (3, resolution, resolution)}
    transform = create_transform(**resolve_data_config(size, pretrained_cfg=trained))
    ours = Preprocessing(fit=FITS[mode], crop=crop, resample=f"{filter_name}-antialias", mean=MEAN, std=STD)
    images = [photo(*size) for size in SIZES]
    wanted = np.stack([transform(Image.fromarray(image)).numpy() for image in images])
    np.testing.assert_array_equal(preprocess(images, resolution, ours), wanted)


def test_a_stretch_by_another_filter_is_pillows() -> None:
    image = photo(50, 70)
    found = preprocess([image], 32, Preprocessing(resample="lanczos-antialias", mean=(0, 0, 0), std=(1, 1, 1)))
    wanted = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), wanted / np.float32(255))


def test_a_view_is_cropped_too() -> None:
    image = photo(60, 80)
    settings = Preprocessing(fit="crop", crop=0.875)
    np.testing.assert_array_equal(
        preprocess([image[::-1, ::2]], 32, settings), preprocess([image[::-1, ::2].copy()], 32, settings)
    )


def test_a_picture_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(SourceError, match="9000 x 1 pixels would have 2304000 x 256"):
        preprocess([photo(1, 9000)], 224, Preprocessing(fit="crop", crop=0.875))


def test_records_of_a_plain_stretch_are_what_they_were() -> None:
    plain = {"resample": "bilinear-antialias", "mean": [0.5] * 3, "std": [0.5] * 3}
    assert json.loads(Preprocessing().model_dump_json()) == plain
    assert Preprocessing().model_dump(mode="json") == plain
    cropped = Preprocessing(fit="crop", crop=0.9)
    assert json.loads(cropped.model_dump_json()) == {"fit": "crop", "crop": 0.9} | plain
    assert Preprocessing.model_validate_json(cropped.model_dump_json()) == cropped
