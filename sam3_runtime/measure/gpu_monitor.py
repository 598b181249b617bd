"""Reads a GPU while something is measured: clocks, temperature, power and memory, through NVML.

Reads the first GPU that is visible to this process; of a MIG instance, clocks, temperature and power are those of its
GPU. Without an NVIDIA driver every reading is None. Opens no CUDA context. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from threading import Event, Thread
from typing import Literal

from sam3_runtime.core.gpus import query, visible_handles, whole_gpu
from sam3_runtime.records.measurements import Clocks, DeviceMemory, Reading
from sam3_runtime.records.memory import MIB

INTERVAL = 0.5
"""Seconds between two readings."""
_SM, _MEMORY = 1, 2  # nvmlClockType_t
_CORE = 0  # nvmlTemperatureSensors_t
_WITHOUT_RESERVED = 0x02000028  # nvmlMemory_v2: memory in use without the driver's own share, as nvidia-smi shows it


def read() -> Reading | None:
    """Return one reading; None without a visible GPU."""
    handle = next(iter(visible_handles()), None)
    if handle is None:
        return None
    gpu = whole_gpu(handle)
    memory = query("DeviceGetMemoryInfo", handle, _WITHOUT_RESERVED) or query("DeviceGetMemoryInfo", handle)
    power, busy = query("DeviceGetPowerUsage", gpu), query("DeviceGetUtilizationRates", gpu)
    return Reading(
        sm_mhz=query("DeviceGetClockInfo", gpu, _SM),
        memory_mhz=query("DeviceGetClockInfo", gpu, _MEMORY),
        temperature_c=query("DeviceGetTemperature", gpu, _CORE),
        power_w=None if power is None else power / 1000,
        used_mib=memory and round(memory.used / MIB, 1),
        busy_percent=busy and busy.gpu,
    )


def process_gpu_mib() -> float | None:
    """Return the GPU memory of this process according to the driver, in MiB; None where it does not list the process.

    Inside a container the driver may list processes under other numbers, or none at all.
    """
    handle = next(iter(visible_handles()), None)
    listed = query("DeviceGetComputeRunningProcesses", handle) or ()
    used = next((one.usedGpuMemory for one in listed if one.pid == os.getpid()), None)
    return None if used is None else round(used / MIB, 1)


@contextmanager
def monitor(interval: float = INTERVAL, *, enabled: bool = True) -> Iterator[list[Reading]]:
    """Read the GPU every ``interval`` seconds in a thread, where ``enabled``; yields the list that readings go into."""
    readings: list[Reading] = []
    stop = Event()

    def watch() -> None:
        while (reading := read()) is not None:
            readings.append(reading)
            if stop.wait(interval):
                return

    thread = Thread(target=watch, daemon=True)
    if enabled:
        thread.start()
    try:
        yield readings
    finally:
        stop.set()
        if enabled:
            thread.join()


def clocks_of(before: Reading | None, readings: Sequence[Reading]) -> Clocks | None:
    """Return the reading before a measurement and the median of each value during it; None where either is missing."""
    if before is None or not readings:
        return None
    columns = {name: [v for one in readings if (v := getattr(one, name)) is not None] for name in Reading.model_fields}
    during = Reading(**{name: round(median(values), 1) for name, values in columns.items() if values})
    return Clocks(before=before, during=during, samples=len(readings))


class MemoryGauge:
    """Measures the GPU memory that this process takes from here on. Create it before anything is loaded."""

    def __init__(self) -> None:
        self.before = read()
        self._marks: dict[str, float] = {}
        self._method: Literal["process", "difference", "device"] = "difference"

    def mark(self, name: str, device_memory: Callable[[], tuple[int, int] | None]) -> None:
        """Note the memory in use now as ``loaded``, ``ready`` or ``peak``.

        ``device_memory`` returns free and total bytes, used where NVML is not available.
        """
        own, now, device = process_gpu_mib(), read(), device_memory()
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
        """Return what was marked, None if marks are missing. The peak may lie between marks, in ``readings``."""
        if self._marks.keys() != {"loaded", "ready", "peak"}:
            return None
        before = self.before.used_mib if self.before else None
        peaks = [self._marks["loaded"], self._marks["ready"], self._marks["peak"]]
        if self._method == "difference" and before is not None:
            peaks += [round(one.used_mib - before, 1) for one in readings if one.used_mib is not None]
        return DeviceMemory(
            method=self._method,
            before_mib=before,
            loaded_mib=self._marks["loaded"],
            ready_mib=self._marks["ready"],
            peak_mib=max(peaks),
        )
