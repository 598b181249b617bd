"""8-bit variants beside their siblings, and the work that is in 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam3_runtime.records.records import Layers, Toolchain
from sam3_runtime.report.merged import merge, write_merged
from tests.measured import measured
from tests.report.test_merged import table


def test_eight_bits_that_are_slower_are_not_worth_it(tmp_path: Path) -> None:
    slow = [measured("b8_q50_r672", vision=3.0), measured("b8_q50_r672_int8", vision=3.3)]
    found = write_merged([table(tmp_path, *slow)], tmp_path / "out")
    assert [row["accuracy"][0].get("note") for row in found["rows"]] == [None, "not worth it"]
    assert "10.0 % more than b8_q50_r672" in (tmp_path / "out.md").read_text()
    fast = [measured("b8_q50_r672", vision=3.0), measured("b8_q50_r672_int8", vision=2.0)]
    assert merge([table(tmp_path / "fast", *fast)])["warnings"] == []


def test_a_warning_where_little_runs_in_8_bits(tmp_path: Path) -> None:
    def layers(int8: int, unknown: int = 50) -> dict[str, Any]:
        work = {"int8": int8, "float16": 60, "unknown": unknown}
        made = Layers(count=9, types={}, work=work, attention=0, reformats=0, opaque=1)
        return {"vision_record": {"layers": made}}

    little = merge([table(tmp_path, measured("b8_q50_r672_int8", **layers(20)))])
    assert little["warnings"] == [
        "b8_q50_r672_int8: only 25% of the matrix work of its vision encoder runs in 8 bits, as far as TensorRT "
        "reports it"
    ]
    assert little["rows"][0]["accuracy"][0]["8-bit share"] == "25%"
    assert merge([table(tmp_path, measured("b8_q50_r672_int8", **layers(90)))])["warnings"] == []
    # Where most is hidden nothing can be said.
    hidden = merge([table(tmp_path, measured("b8_q50_r672_int8", **layers(20, unknown=500)))])
    assert hidden["warnings"] == []
    assert "8-bit share" not in hidden["rows"][0]["accuracy"][0]


def test_work_that_tensorrt_does_not_report_is_of_no_type(tmp_path: Path) -> None:
    """As 8.6 reports a vision encoder on an H200."""
    work = {"float16": 602112, "int8": 6946816, "unknown": 444596224}
    made = Layers(count=18, types={"unknown": 12}, work=work, attention=0, reformats=6, opaque=1)
    toolchain = Toolchain(backend="tensorrt", version="8.6.1")
    one = measured("b8_q50_r672", vision_record={"layers": made, "toolchain": toolchain})
    shown = merge([table(tmp_path, one)])["rows"][0]["accuracy"][0]["vision precision"]
    assert shown == "int8 2%, float16 <1%, 98% not reported by TensorRT 8.6.1"
