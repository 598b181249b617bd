"""What a family's comparison with its reference gives, and the measures that families share. Knows no model."""

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
    """``checks`` hold what was measured against the limits; ``errors`` are the largest absolute ones of each output.
    ``cases`` were compared; ``passed`` is the reason that a verdict gives where every check passes. ``counts`` are more
    fields of the :class:`Verdict`."""

    checks: tuple[Check, ...]
    errors: Mapping[str, float]
    cases: int
    passed: str
    counts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartCall:
    """One part to be timed alone: rows of images and of prompts, and the call, its inputs where the part reads them."""

    part: str
    images: int
    prompts: int
    call: Callable[[], object]


@dataclass
class Findings:
    """Cosines and largest errors by the name of an output."""

    cosines: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def compare(self, name: str, got: Array, wanted: Array) -> None:
        self.cosines.setdefault(f"{name} cosine", []).append(cosine(got, wanted))
        difference = np.abs(np.asarray(got, np.float64) - np.asarray(wanted, np.float64))
        self.note_error(name, float(difference.max(initial=0.0)))

    def note_error(self, name: str, error: float) -> None:
        # A NaN stays: `max` would drop it on one side.
        known = self.errors.get(name, 0.0)
        self.errors[name] = error if np.isnan(error) else known if np.isnan(known) else max(known, error)


def cosine(one: Array, other: Array) -> float:
    """Cosine of two arrays as vectors, in float64; NaN, which passes no check, where one is zero or holds a NaN."""
    a, b = np.asarray(one, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float("nan")
