"""What is read from ``nvidia-smi``: a small one on PATH answers here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sam3_runtime.measure.gpu_monitor import MemoryGauge, Monitor, clocks_of, process_mib, read
from sam3_runtime.measure.memory import MIB
from sam3_runtime.records.measurements import DeviceMemory

ANSWER = "1980, 3201, 41, 612.5, {used}, 97"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
Smi = Callable[..., None]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    """Put an ``nvidia-smi`` on PATH that knows the memory ``used`` and the processes ``apps``."""

    def put(used: object = 100, apps: str = "", code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(
            "#!/bin/sh\n"
            f'case "$*" in *compute-apps*) printf "{apps}";; *) echo "{ANSWER.format(used=used)}";; esac\nexit {code}\n'
        )
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return put


def no_device() -> None:
    return None


def marked(smi: Smi, *states: tuple[object, str]) -> DeviceMemory | None:
    gauge = MemoryGauge()
    for name, (used, apps) in zip(("loaded", "ready", "peak"), states, strict=True):
        smi(used, apps)
        gauge.mark(name, no_device)
    return gauge.result([])


def test_a_reading(smi: Smi) -> None:
    smi(321)
    found = read()
    assert found is not None
    assert (found.sm_mhz, found.power_w, found.used_mib, found.busy_percent) == (1980.0, 612.5, 321.0, 97.0)
    smi("[N/A]")
    found = read()
    assert found is not None
    assert found.used_mib is None


def test_no_tool_or_one_that_fails_is_no_reading(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(code=9)
    assert read() is None
    monkeypatch.setenv("PATH", "")
    assert read() is None
    assert process_mib() is None
    with Monitor() as monitor:
        pass
    assert monitor.readings == []


def test_this_process_where_the_driver_knows_it(smi: Smi) -> None:
    smi(apps=f"1, 50\\n{os.getpid()}, 2048\\n")
    assert process_mib() == 2048.0
    smi(apps="1, 50\\n")
    assert process_mib() is None


def test_memory_of_the_process_or_else_what_the_card_has_more(smi: Smi) -> None:
    smi(100)
    own = f"{os.getpid()}, {{}}\\n"
    found = marked(smi, (0, own.format(2000)), (0, own.format(1500)), (0, own.format(1600)))
    assert found == DeviceMemory(
        method="process", before_mib=100.0, loaded_mib=2000.0, ready_mib=1500.0, peak_mib=2000.0
    )
    smi(100)
    found = marked(smi, (1100, ""), (800, ""), (900, ""))
    assert found == DeviceMemory(
        method="difference", before_mib=100.0, loaded_mib=1000.0, ready_mib=700.0, peak_mib=1000.0
    )


def test_a_peak_between_the_marks_counts(smi: Smi) -> None:
    smi(100)
    gauge = MemoryGauge()
    for name in ("loaded", "ready", "peak"):
        gauge.mark(name, no_device)
    smi(5100)
    peak = read()
    assert peak is not None
    found = gauge.result([peak])
    assert found is not None
    assert found.peak_mib == 5000.0


def test_without_the_tool_the_device_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    gauge = MemoryGauge()
    assert gauge.result([]) is None
    for name in ("loaded", "ready", "peak"):
        gauge.mark(name, lambda: (3000 * MIB, 8000 * MIB))
    found = gauge.result([])
    assert found is not None
    assert (found.method, found.peak_mib, found.before_mib) == ("device", 5000.0, None)


def test_clocks_are_medians_of_what_was_seen_meanwhile(smi: Smi) -> None:
    smi(100)
    before = read()
    with Monitor(interval=0.01) as monitor:
        while len(monitor.readings) < 3:
            time.sleep(0.01)
    found = clocks_of(before, monitor.readings)
    assert found is not None
    assert found.samples == len(monitor.readings) >= 3
    assert found.during.temperature_c == 41.0
    assert clocks_of(None, monitor.readings) is None
