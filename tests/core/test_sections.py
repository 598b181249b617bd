"""Numbers of variants.yaml: what is not one is refused with what to write instead."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from sam3_runtime.core.sections import (
    NonNegative,
    PicturesSection,
    Positive,
    QuantizeValue,
    RoundsSection,
    Section,
    Share,
)


class Some(Section):
    count: Positive = 1
    share: Share = 0.5
    limit: NonNegative = 0
    quantize: QuantizeValue = "none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": " 008 "}, r"' 008 ' is text; write the number without quotes: 8"),
        ({"share": "0.5"}, r"write the number without quotes: 0\.5"),
        ({"count": True}, "true is not a number"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"count": 1.5}, "valid integer"),
        ({"share": 1.01}, "less than or equal to 1"),
        ({"limit": math.inf}, "finite number"),
        ({"limit": -1}, "greater than or equal to 0"),
        ({"quantize": "int4"}, "'none', 'int8' or 'fp8'"),
        ({"cuont": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Some.model_validate(given)


def test_an_empty_value_of_quantize_is_none() -> None:
    assert Some.model_validate({"quantize": None}).quantize == "none"


def test_where_images_lie_rebuilds_nothing() -> None:
    one, other = PicturesSection(source=["a"]), PicturesSection(source=["b/*.png"])
    assert one.params() == other.params() == {}
    assert RoundsSection(source=["a"], warmup=1).params() == RoundsSection(source=["b"], warmup=1).params()


def test_a_baseline_has_the_batches_of_the_cameras_once() -> None:
    rounds = RoundsSection(cameras=[8, 1, 8], windows=2, rounds=5, warmup=1, threads=3)
    assert rounds.baseline() == {"warmup": 1, "windows": 2, "rounds": 5, "batches": [1, 8]}
