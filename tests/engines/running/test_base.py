from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.base import check_feeds
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, PartName, fixed_dims
from sam3_runtime.plan.variants import Variant
from tests.fake_variant import SMALL_DIMS, fake_record

VARIANT = Variant((8, 50, 112))


def feeds(part: PartName, dtype: str = "float32", **values: int) -> dict[str, np.ndarray[Any, Any]]:
    known = fixed_dims(SMALL_DIMS, 112, 50) | {"B": 2, "P": 2, "N": 1, "n": 3, "L": 32} | values
    return {
        spec.name: np.zeros(resolve(spec.shape, known), dtype if spec.dtype == "float" else spec.dtype)  # type: ignore[arg-type]
        for spec in PARTS[part].inputs
    }


def engine_of(part: PartName) -> FakeEngine:
    engine = FakeEngine(fake_record(part, VARIANT))
    engine.variant = VARIANT
    return engine


@pytest.mark.parametrize("part", PART_NAMES)
def test_fake_engines_give_what_the_contract_says(part: PartName) -> None:
    engine = FakeEngine(fake_record(part, VARIANT))
    fed = feeds(part)
    outputs = engine.infer(fed)
    values = check_feeds(engine.record, fed) | {"n": 3}
    assert outputs.keys() == {spec.name for spec in PARTS[part].outputs}
    for spec in PARTS[part].outputs:
        known = fixed_dims(SMALL_DIMS, 112, 50) | values
        assert outputs[spec.name].shape == resolve(spec.shape, known)
        assert outputs[spec.name].dtype == ("float32" if spec.dtype == "float" else spec.dtype)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision-encoder", {"images": None}, "the vision-encoder lacks images"),
        ("vision-encoder", {"pixels": np.zeros(1)}, "does not take pixels"),
        (
            "vision-encoder",
            {"images": np.zeros((2, 3, 112, 112))},
            "images is float64\nHint: this engine takes float32",
        ),
        ("vision-encoder", {"images": np.zeros((3, 112, 112), np.float32)}, r"has the shape \[3, 112, 112\]"),
        ("vision-encoder", {"images": np.zeros((2, 3, 112, 98), np.float32)}, r"it takes \[B, 3, 112, 112\]"),
        ("vision-encoder", {"images": np.zeros((0, 3, 112, 112), np.float32)}, "got B = 0"),
        ("vision-encoder", {"images": [[1.0]]}, "is a list"),
        ("text-encoder", {"attention_mask": np.zeros((3, 32), np.int64)}, "P is 2 in another input"),
        ("geometry-encoder", {"input_boxes": np.zeros((2, 4, 4), np.float32)}, "n is 4 in another input"),
        ("decoder", {"prompt_mask": np.zeros((2, 32), np.int64)}, "prompt_mask is int64"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(part: PartName, change: dict[str, Any], message: str) -> None:
    fed = {name: array for name, array in {**feeds(part), **change}.items() if array is not None}
    with pytest.raises(EngineError, match=message):
        engine_of(part).infer(fed)


def test_too_large_a_batch_names_the_variant_that_takes_it() -> None:
    for part, symbol in (("vision-encoder", "B"), ("text-encoder", "P"), ("decoder", "P")):
        with pytest.raises(EngineError, match="got a batch of 12, and b8_q50_r112 takes 8 at most") as caught:
            engine_of(part).infer(feeds(part, **{symbol: 12}))  # type: ignore[arg-type]
        assert "build b12_q50_r112: add to variants.yaml\n  - {batch: 12, queries: 50, resolution: 112}" in str(
            caught.value
        )
    with pytest.raises(EngineError, match="build a variant with batch: 12"):
        FakeEngine(fake_record("text-encoder", VARIANT)).infer(feeds("text-encoder", P=12))


def test_too_many_boxes_or_tokens_name_the_range() -> None:
    with pytest.raises(EngineError, match="got n = 28\nHint: this engine takes n from 1 to 27"):
        FakeEngine(fake_record("geometry-encoder", VARIANT)).infer(feeds("geometry-encoder", n=28))
    with pytest.raises(EngineError, match="L from 1 to 60"):
        FakeEngine(fake_record("decoder", VARIANT)).infer(feeds("decoder", L=61))


@pytest.mark.parametrize(
    ("images", "prompts", "fits"), [(1, 1, True), (1, 5, True), (5, 5, True), (2, 5, False), (5, 1, False)]
)
def test_features_are_of_one_image_or_of_one_for_each_prompt(images: int, prompts: int, fits: bool) -> None:
    record, fed = fake_record("decoder", VARIANT), feeds("decoder", N=images, P=prompts)
    if fits:
        assert check_feeds(record, fed) == {"N": images, "P": prompts, "L": 32}
    else:
        with pytest.raises(EngineError, match=f"got features of {images} images and {prompts} prompts?\n"):
            check_feeds(record, fed)


def test_casts_to_the_engines_own_types() -> None:
    record = fake_record("text-encoder", VARIANT)
    narrow = tuple(spec.model_copy(update={"dtype": "int32"}) for spec in record.inputs)
    engine = FakeEngine(record.model_copy(update={"inputs": narrow}))
    cast = engine.cast(feeds("text-encoder") | {"other": np.zeros(1)})
    assert {name: array.dtype.name for name, array in cast.items()} == {"input_ids": "int32", "attention_mask": "int32"}
