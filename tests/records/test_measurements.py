"""What measurements are made of: summaries of samples, and names that can be shared."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.records.measurements import latency, stable


def test_percentiles_are_numpys() -> None:
    samples = list(np.random.default_rng(3).normal(10, 2, 37))
    found = latency(samples)
    p95, p99 = np.percentile(samples, [95, 99])
    assert (found.median, found.p95, found.p99) == pytest.approx((np.median(samples), p95, p99), abs=1e-3)
    assert latency([4.0]).p99 == 4.0


def test_windows_that_disagree_are_unstable() -> None:
    assert stable([[1.0, 1.0], [1.05]])
    assert not stable([[1.0], [1.0], [1.3]])
