"""What the driver's own ``nvidia-smi`` says of a GPU while something is measured: clocks, heat, power, memory.

Asks about the first GPU that this process may see. Where there is no ``nvidia-smi``, or it does not answer, every
answer is None and nothing is sampled. Knows no backend and opens no CUDA context. Pure: standard library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from statistics import median
from threading import Event, Thread
from types import TracebackType
from typing import Literal

from typing_extensions import Self

from sam3_runtime.core.gpus import VISIBLE_DEVICES, ask_driver
from sam3_runtime.measure.memory import MIB
from sam3_runtime.records.measurements import Clocks, DeviceMemory, Reading

_FIELDS = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
    "used_mib": "memory.used",
    "busy_percent": "utilization.gpu",
}
INTERVAL = 0.5
"""Seconds between two samples: ``nvidia-smi`` takes a core for some milliseconds each time."""


def visible_gpu() -> str:
    """The first GPU that this process may see, as ``nvidia-smi -i`` takes it: an index or a UUID."""
    return os.environ.get(VISIBLE_DEVICES, "").split(",")[0].strip() or "0"


def _ask(query: str) -> list[list[str]]:
    return ask_driver("-i", visible_gpu(), query)


def _number(text: str) -> float | None:
    """``[N/A]`` and its like are None."""
    try:
        return float(text)
    except ValueError:
        return None


def read() -> Reading | None:
    """One reading."""
    rows = _ask(f"--query-gpu={','.join(_FIELDS.values())}")
    if not rows or len(rows[0]) != len(_FIELDS):
        return None
    return Reading(**dict(zip(_FIELDS, map(_number, rows[0]), strict=True)))


def process_mib() -> float | None:
    """Device memory that the driver books on this process; None where it does not know it by this number.

    Inside a container the driver may know a process by another number, or tell none at all.
    """
    for row in _ask("--query-compute-apps=pid,used_memory"):
        if row[0] == str(os.getpid()):
            return _number(row[1])
    return None


class Monitor:
    """Reads the GPU in a thread, from entering to leaving, where ``enabled``; ``readings`` holds what it saw."""

    def __init__(self, interval: float = INTERVAL, *, enabled: bool = True) -> None:
        self.readings: list[Reading] = []
        self._enabled = enabled
        self._interval = interval
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while (reading := read()) is not None:
            self.readings.append(reading)
            if self._stop.wait(self._interval):
                return

    def __enter__(self) -> Self:
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._enabled:
            self._thread.join()


def middle(readings: Sequence[Reading]) -> Reading:
    """The median of each value over those readings that have it."""
    columns = {name: [v for one in readings if (v := getattr(one, name)) is not None] for name in _FIELDS}
    return Reading(**{name: round(median(values), 1) for name, values in columns.items() if values})


def clocks_of(before: Reading | None, readings: Sequence[Reading]) -> Clocks | None:
    return Clocks(before=before, during=middle(readings), samples=len(readings)) if before and readings else None


class MemoryGauge:
    """What this process takes of the GPU's memory, from here on. Made before anything is loaded.

    ``ask_device`` gives (free, total) bytes as the runtime's own device knows them, for where ``nvidia-smi`` is not.
    """

    def __init__(self) -> None:
        self.before = read()
        self._marks: dict[str, float] = {}
        self._method: Literal["process", "difference", "device"] = "difference"

    def mark(self, name: str, ask_device: Callable[[], tuple[int, int] | None]) -> None:
        """Note what is taken now as ``loaded``, ``ready`` or ``peak``."""
        own = process_mib()
        now = read()
        device = ask_device()
        if own is not None:
            self._method, taken = "process", own
        elif now and now.used_mib is not None and self.before and self.before.used_mib is not None:
            taken = now.used_mib - self.before.used_mib
        elif device is not None:
            self._method, taken = "device", (device[1] - device[0]) / MIB
        else:
            return
        self._marks[name] = round(taken, 1)

    def result(self, readings: Sequence[Reading]) -> DeviceMemory | None:
        """What was marked; ``readings`` are those of the rounds, where the peak may lie between two marks."""
        if self._marks.keys() != {"loaded", "ready", "peak"}:
            return None
        before = self.before.used_mib if self.before else None
        peak = max(self._marks.values())
        if self._method == "difference" and before is not None:
            seen = [one.used_mib for one in readings if one.used_mib is not None]
            peak = max([peak, *(round(used - before, 1) for used in seen)])
        return DeviceMemory(
            method=self._method,
            before_mib=before,
            loaded_mib=self._marks["loaded"],
            ready_mib=self._marks["ready"],
            peak_mib=peak,
        )
