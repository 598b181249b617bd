"""The report of a run over sources: what was measured, and nothing about what was not."""

from __future__ import annotations

from typing import Any

import pytest

from sam3_runtime.records.measurements import Clocks, DeviceMemory, EngineCalls, Reading, StreamBench, latency
from sam3_runtime.records.records import Toolchain
from sam3_runtime.streams.benchmark_text import markdown

ROUNDS = latency([10.0, 11.0, 12.0])
CALLS = EngineCalls(part="decoder", shape={"N": 1, "P": 3}, calls=2, alone=latency([4.0]), stable=False)


def bench(**changes: Any) -> StreamBench:
    fields: dict[str, Any] = {
        "variant": "b8_q50_r672", "backend": "onnxruntime", "device": "a CPU", "checkpoint": "facebook/sam3",
        "checkpoint_digest": "2" * 64, "engines": {}, "date": "2026-01-01",
        "toolchain": Toolchain(backend="onnxruntime", version="1.23"), "threads": None, "classes": 3, "kept": None,
        "masks": 7, "cameras": 1, "pictures": ((48, 64),), "frames": 80, "images": 1, "seconds": 2, "rounds": ROUNDS,
        "stable": True, "frame": ROUNDS, "fps": 40, "fps_per_camera": 40, "engines_ms": 9, "ratio": 1.25,
        "calls": (CALLS,), "memory_peak_mib": 900,
    }  # fmt: skip
    return StreamBench(**fields | changes)


def test_conditions_and_numbers_of_a_cpu() -> None:
    text = markdown(bench())
    assert text.startswith(
        "device: a CPU; backend: onnxruntime 1.23; checkpoint: facebook/sam3 (222222222222); date: 2026-01-01\n"
    )
    assert "1 camera of 64 x 48, 3 classes, detections above the threshold: 7 masks a round of 1 frame; " in text
    assert "80 frames in 2 s." in text
    for name in ("gpu_busy |", "vram_mib", "clocks", "threads", "ratio_inside |", "random"):
        assert name not in text
    row = next(line for line in text.splitlines() if line.startswith("| decoder"))
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["N=1 P=3", "2", "4.00 (unstable)", "4.00"]


def test_what_is_known_of_a_gpu() -> None:
    text = markdown(
        bench(
            driver="580.65", threads=2, busy_percent=96.5, checkpoint="random", cameras=2, pictures=((48, 64), (8, 8)),
            kept=5, stable=False, ratio_inside=1.125, calls=(),
            device_memory=DeviceMemory(method="process", before_mib=1, loaded_mib=2, ready_mib=3, peak_mib=4321.4),
            clocks=Clocks(before=Reading(), during=Reading(sm_mhz=1980, memory_mhz=3201), samples=9),
        )
    )  # fmt: skip
    for part in (
        "driver: 580.65", "threads: 2", "2 cameras of several sizes", "the best 5 of each class", "| 96 %     |",
        "| 4321     |", "11.0 (unstable)", "1.125", "The weights are random", "clocks: SM 1980 MHz, memory 3201 MHz",
    ):  # fmt: skip
        assert part in text
    assert "calls a round" not in text


@pytest.mark.parametrize(
    ("during", "said"),
    [(Reading(), "clocks: unknown"), (Reading(sm_mhz=1980), "clocks: SM 1980 MHz, memory unknown")],
)
def test_clocks_that_are_not_reported(during: Reading, said: str) -> None:
    assert said in markdown(bench(clocks=Clocks(before=Reading(), during=during, samples=9)))
