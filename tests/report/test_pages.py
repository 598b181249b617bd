from __future__ import annotations

from typing import Any

from sam3_runtime.report.pages import folder_csv, folder_html, folder_markdown, legend_of


def table_of(**row: Any) -> dict[str, Any]:
    whole = {"variant": "b8_q50_r672", "status": "failed", "reason": "<script>alert(1)</script>", **row}
    return {
        "date": "2026-01-01", "measured": [], "partial": True, "device": [], "toolchain": None, "gpus": [],
        "checkpoint": {"name": "a & b", "digest": "0" * 64}, "rows": [whole], "warnings": [], "variants": [],
    }  # fmt: skip


def test_html_is_escaped() -> None:
    text = folder_html(table_of(cosine=0.5))
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "checkpoint: a &amp; b (000000000000)" in text
    assert '<tr class="failed"><td>b8_q50_r672</td><td>failed</td><td>0.5</td>' in text
    assert "partial: the run ended with an error" in text


def test_legends_are_those_of_the_columns() -> None:
    assert legend_of([{"variant": "a", "cosine": 1.0}]).startswith("`cosine` is the lowest")
    assert "500 MiB for the CUDA context" in legend_of([{"vram_mib": 1.0}])
    assert legend_of([{"variant": "a", "cosine": None}]) == ""
    assert "`(unstable)`" in legend_of([{"8cam_ms": "1.0 (unstable)"}])


def test_the_reason_is_the_last_column_and_below_the_table() -> None:
    assert folder_csv(table_of(cosine=None)).splitlines()[0] == "variant,status,reason"
    text = folder_markdown(table_of())
    assert "- b8_q50_r672 is **failed**: <script>" in text
    assert "reason" not in text.split("\n\n")[3]
