"""Calls are timed one by one, and the device is idle before and after each."""

from __future__ import annotations

import pytest

from sam3_runtime.measure import timing
from sam3_runtime.measure.timing import timed, timed_windows


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, on a clock that only calls and waiting move."""
    happened: list[str] = []
    seconds = {"call": 0.002, "wait": 0.003, "clock": 0.0}

    def now() -> float:
        happened.append("clock")
        return sum(seconds[one] for one in happened)

    monkeypatch.setattr(timing.time, "perf_counter", now)
    return happened


def test_waiting_for_the_device_is_part_of_a_call_and_not_what_was_before(done: list[str]) -> None:
    times = timed(lambda: done.append("call"), 2, lambda: done.append("wait"))
    assert times == [pytest.approx(5.0)] * 2
    assert done == ["wait", "clock", "call", "wait", "clock"] * 2


def test_the_warm_up_is_in_no_window(done: list[str]) -> None:
    settings = {"warmup": 3, "windows": 2, "rounds": 4}
    windows = timed_windows(lambda: done.append("call"), settings, lambda: None)
    assert [len(window) for window in windows] == [4, 4]
    assert done.count("call") == 3 + 2 * 4
