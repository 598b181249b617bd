"""Times calls with the wall clock, waiting for the device before each reading."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def timed(call: Callable[[], object], count: int, wait: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each of ``count`` calls. ``wait`` returns when the device is idle."""
    times = []
    for _ in range(count):
        wait()
        started = time.perf_counter()
        call()
        wait()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def timed_windows(
    call: Callable[[], object], settings: Mapping[str, Any], wait: Callable[[], object]
) -> list[list[float]]:
    """Return the milliseconds of each call, in ``windows`` of ``rounds`` each.

    A ``warmup`` before them is not counted.
    """
    timed(call, settings["warmup"], wait)
    return [timed(call, settings["rounds"], wait) for _ in range(settings["windows"])]
