"""The result of a family's comparison with its reference, and the measures that families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.records.records import Check

Array = NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """``checks`` are the measured values with their limits; ``errors`` the largest absolute ones of each output.

    ``cases`` is how many were compared; ``passed`` the reason in a verdict whose checks all pass. ``counts`` are more
    fields of the :class:`Verdict`.
    """

    checks: tuple[Check, ...]
    errors: Mapping[str, float]
    cases: int
    passed: str
    counts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartCall:
    """A part to be timed alone: rows of images and of prompts, and the call, its inputs where the part reads them."""

    part: str
    images: int
    prompts: int
    call: Callable[[], object]


@dataclass
class Findings:
    """Cosines and largest absolute errors by the name of an output."""

    cosines: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def compare(self, name: str, got: Array, wanted: Array) -> None:
        """Add the cosine and the largest error of two arrays of one shape."""
        self.cosines.setdefault(f"{name} cosine", []).append(cosine(got, wanted))
        difference = np.abs(np.asarray(got, np.float64) - np.asarray(wanted, np.float64))
        self.note_error(name, float(difference.max(initial=0.0)))

    def note_error(self, name: str, error: float) -> None:
        """Add an absolute error; a NaN stays the largest."""
        self.errors[name] = float(np.maximum(self.errors.get(name, 0.0), error))


def cosine(one: Array, other: Array) -> float:
    """Return the cosine of two arrays as vectors, in float64.

    It is NaN, which passes no check, where one is zero or contains a NaN.
    """
    a, b = np.asarray(one, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float("nan")
