"""The page about what building costs: what is compared, and what is not. Builds nothing."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")
from sam3_runtime.families.sam3.export.builds import steps_of
from sam3_runtime.families.sam3.export.builds_page import expectations, markdown
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.memory import MIB
from tests.families.sam3.export.test_builds import plan_of


def engine(graph: str, file: int, seconds: float = 40.0) -> dict[str, Any]:
    sizes = {"file": file * MIB, "weights": file * MIB, "scratch": 5 * MIB, "activation": 9 * MIB}
    return {
        "graph": graph,
        "build_seconds": seconds,
        "build_peak_mib": 3900.0,
        "precision_got": {"float16": 3},
        **sizes,
    }


def row(variant: Variant, vision_file: int = 900, seconds: float = 40.0) -> dict[str, Any]:
    names = {
        "vision-encoder": f"vision-encoder{variant.suffix}",
        "text-encoder": "text-encoder",
        "geometry-encoder": "geometry-encoder",
        "decoder": f"decoder_q{variant['queries']}",
    }
    engines = {part: engine(graph, 10) for part, graph in names.items()}
    engines["vision-encoder"] = engine(names["vision-encoder"], vision_file, seconds)
    sizes = {"weights_mib": 900.0, "scratch_mib": 500.0, "buffers_mib": 600.0, "total_mib": 2000.0, "fits_gb": [6, 8]}
    return {
        "variant": variant.name, **variant.axes, "quantize": variant.quantize,
        "export_seconds": 200.0, "export_peak_mib": 7000.0,
        "quantize_seconds": 0.0, "quantize_peak_mib": 0.0, "added_seconds": 300.0, "engines": engines,
        "memory": {"with_text": sizes, "without_text": sizes},
    }  # fmt: skip


def result(*rows: dict[str, Any]) -> dict[str, Any]:
    variants = [Variant((one["batch"], one["queries"], one["resolution"]), one["quantize"]) for one in rows]
    with TemporaryDirectory() as folder:
        plan = plan_of(Path(folder), *variants)
    files = [file for one in variants for files in steps_of(plan, one).values() for file in files]
    steps = {file: {"seconds": 50.0, "peak_mib": 100.0} for file in files}
    return {
        "date": "2026-01-01", "complete": True, "cpu": "a CPU", "cores": 2, "python": "3.11",
        "libraries": {"torch": "2"}, "toolchain": {"version": "1.7"}, "gpus": ["8.9", "12.0"], "checkpoint": "random",
        "calibration": {"frames": 4, "algorithm": "minmax"}, "start_seconds": 2.0, "steps": steps, "rows": list(rows),
    }  # fmt: skip


def test_the_predecessor_stands_beside_what_can_be_compared_with_it() -> None:
    text = markdown(result(row(Variant((8, 50, 672))), row(Variant((4, 50, 672)))))
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| b")]
    assert next(line for line in lines if line[1] == "b8_q50_r672")[-3:-1] == ["12", "4582"]
    assert next(line for line in lines if line[1] == "b4_q50_r672")[-3:-1] == ["", ""]
    assert "Not run on any RTX GPU" in text
    assert "4 frames (minmax)" in text
    assert "Not complete" not in text
    assert text.count("| b8/text-encoder ") == 1


def test_what_was_expected_is_held_against_what_was_reached() -> None:
    rows = [
        row(Variant((8, 50, 672))),
        row(Variant((8, 50, 1008)), seconds=95.0),
        row(Variant((8, 50, 672), "int8"), 450),
    ]
    found = {what: (limit, reached) for what, limit, reached in expectations(rows)}
    assert found["every build"] == ("≤ 90 s", "95 s at most")
    assert found["VRAM of eight images at 672, text encoder released"] == ("≤ 2300 MiB", "2000 MiB")
    assert found["int8 vision engine beside float16"] == ("≤ 0.6 of its size", "0.50")
    assert found["adding a variant in floating point"][1] == "300 s at most"
