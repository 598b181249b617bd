"""Cosines and errors of outputs, in which a NaN hides behind no number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sam3_runtime.measure.judging import Findings, cosine


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 0], [2, 0], 1), ([1, 0], [0, 3], 0), ([1, 2], [-1, -2], -1), ([[1, 1], [0, 0]], [[1, 0], [0, 0]], 0.5**0.5)],
)
def test_a_cosine_is_of_arrays_as_vectors(one: list[float], other: list[float], expected: float) -> None:
    assert cosine(np.array(one, np.float16), np.array(other, np.float32)) == pytest.approx(expected)


@pytest.mark.parametrize("other", [[0, 0], [math.nan, 1]])
def test_what_has_no_direction_has_no_cosine(other: list[float]) -> None:
    assert math.isnan(cosine(np.array([1.0, 2.0]), np.array(other)))


def test_the_largest_error_of_all_comparisons_stays() -> None:
    found = Findings()
    found.compare("boxes", np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    found.compare("boxes", np.array([1.0, 2.0]), np.array([1.25, 2.0]))
    found.compare("nothing", np.zeros(0), np.zeros(0))
    assert found.errors == {"boxes": 0.5, "nothing": 0.0}
    assert len(found.cosines["boxes cosine"]) == 2


def test_a_nan_stays_the_largest() -> None:
    found = Findings()
    for error in (0.1, math.nan, 7.0):
        found.note_error("logits", error)
    assert math.isnan(found.errors["logits"])
