"""What is read from NVML, of which there is a fake."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from sam3_runtime.measure.gpu_monitor import MemoryGauge, clocks_of, monitor, process_gpu_mib, read
from sam3_runtime.records.measurements import DeviceMemory
from sam3_runtime.records.memory import MIB
from tests.conftest import ShowGpus


def no_device() -> None:
    return None


def mark_all(show_gpus: ShowGpus, *states: tuple[int, dict[str, Any]]) -> DeviceMemory | None:
    gauge = MemoryGauge()
    for name, (used, processes) in zip(("loaded", "ready", "peak"), states, strict=True):
        show_gpus({"used_mib": used, "processes": processes})
        gauge.mark(name, no_device)
    return gauge.result([])


def test_a_reading(show_gpus: ShowGpus) -> None:
    show_gpus({"used_mib": 321}, {"used_mib": 999})
    found = read()
    assert found is not None
    assert (found.sm_mhz, found.memory_mhz, found.temperature_c, found.power_w) == (1980.0, 3201.0, 41.0, 612.5)
    assert (found.used_mib, found.busy_percent) == (321.0, 97.0)


def test_a_value_that_the_gpu_does_not_tell_is_none(show_gpus: ShowGpus) -> None:
    show_gpus({"milliwatts": None, "used_mib": None})
    found = read()
    assert found is not None
    assert (found.power_w, found.used_mib, found.sm_mhz) == (None, None, 1980.0)


def test_no_driver_or_no_visible_gpu_is_no_reading(show_gpus: ShowGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read() is None
    assert process_gpu_mib() is None
    show_gpus({})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read() is None
    assert process_gpu_mib() is None
    with monitor() as readings:
        pass
    assert readings == []


def test_the_gpu_is_the_first_that_is_visible(show_gpus: ShowGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus({"used_mib": 1}, {"used_mib": 2, "uuid": "GPU-b", "processes": {os.getpid(): 3}})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    found = read()
    assert found is not None
    assert (found.used_mib, process_gpu_mib()) == (2.0, 3.0)


@pytest.mark.parametrize("setting", [None, "0", "MIG-d4", "MIG-d"])
def test_a_mig_instance_has_its_own_memory_and_the_clocks_of_its_gpu(
    show_gpus: ShowGpus, monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    """``nvidia-smi -i`` took the beginning of the list for a GPU, and gave no reading at all for an instance."""
    instance = {"uuid": "MIG-d4", "used_mib": 77, "processes": {os.getpid(): 70}}
    show_gpus({"used_mib": 5000, "mig": [instance, {"uuid": "MIG-e5"}]})
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    found = read()
    assert found is not None
    assert (found.used_mib, found.sm_mhz, found.power_w, found.busy_percent) == (77.0, 1980.0, 612.5, None)
    assert process_gpu_mib() == 70.0


def test_this_process_where_the_driver_lists_it(show_gpus: ShowGpus) -> None:
    show_gpus({"processes": {1: 50, os.getpid(): 2048}})
    assert process_gpu_mib() == 2048.0
    show_gpus({"processes": {1: 50}})
    assert process_gpu_mib() is None
    show_gpus({"processes": {os.getpid(): None}})
    assert process_gpu_mib() is None


def test_memory_of_the_process_or_else_what_the_gpu_has_more_in_use(show_gpus: ShowGpus) -> None:
    show_gpus({"used_mib": 100})
    found = mark_all(show_gpus, *((0, {os.getpid(): used}) for used in (2000, 1500, 1600)))
    assert found == DeviceMemory(
        method="process", before_mib=100.0, loaded_mib=2000.0, ready_mib=1500.0, peak_mib=2000.0
    )
    show_gpus({"used_mib": 100})
    found = mark_all(show_gpus, (1100, {}), (800, {}), (900, {}))
    assert found == DeviceMemory(
        method="difference", before_mib=100.0, loaded_mib=1000.0, ready_mib=700.0, peak_mib=1000.0
    )


def test_a_peak_between_the_marks_counts(show_gpus: ShowGpus) -> None:
    show_gpus({"used_mib": 100})
    gauge = MemoryGauge()
    for name in ("loaded", "ready", "peak"):
        gauge.mark(name, no_device)
    show_gpus({"used_mib": 5100})
    peak = read()
    assert peak is not None
    found = gauge.result([peak])
    assert found is not None
    assert found.peak_mib == 5000.0


def test_without_nvml_the_device_tells(show_gpus: ShowGpus) -> None:
    del show_gpus
    gauge = MemoryGauge()
    assert gauge.result([]) is None
    for name in ("loaded", "ready", "peak"):
        gauge.mark(name, lambda: (3000 * MIB, 8000 * MIB))
    found = gauge.result([])
    assert found is not None
    assert (found.method, found.peak_mib, found.before_mib) == ("device", 5000.0, None)


def test_clocks_are_medians_of_what_was_read_meanwhile(show_gpus: ShowGpus) -> None:
    show_gpus({})
    before = read()
    with monitor(interval=0.01) as readings:
        while len(readings) < 3:
            time.sleep(0.01)
    found = clocks_of(before, readings)
    assert found is not None
    assert found.samples == len(readings) >= 3
    assert (found.during.temperature_c, found.during.power_w) == (41.0, 612.5)
    assert clocks_of(None, readings) is None
    assert clocks_of(before, []) is None


def test_a_monitor_that_is_not_enabled_reads_nothing(show_gpus: ShowGpus) -> None:
    show_gpus({})
    with monitor(enabled=False) as readings:
        pass
    assert readings == []
