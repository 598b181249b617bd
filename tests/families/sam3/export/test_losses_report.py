"""The page's part about float16, from results that were measured before."""

from __future__ import annotations

from typing import Any

from sam3_runtime.families.sam3.export.islands import ISLANDS
from sam3_runtime.families.sam3.export.losses_report import describe_losses


def results(*detections: dict[str, Any], **others: Any) -> dict[str, Any]:
    row = {
        "resolution": 336,
        "losses": {"pred_boxes": {"cosine_loss": 1.23e-5, "error": 4.5e-4}},
        "largest": {"decoder": ("/div", 123.45)},
        "detections": list(detections),
    }
    return {"chain": [row], **others}


def test_losses_and_largest_values_have_their_numbers() -> None:
    text = "\n".join(describe_losses(results({"same": True, "gap": 0.1})))
    assert "| `pred_boxes` | 1.2e-05    | 4.5e-04       |" in text
    assert "Largest values: decoder 123.5 (`/div`).\nThe same queries are detected in 1 of 1 cases." in text
    assert "FP32 exceptions" not in text


def test_a_tie_is_told_with_its_gap() -> None:
    text = "\n".join(describe_losses(results({"same": True, "gap": 0.1}, {"same": False, "gap": 3e-5})))
    assert "in 1 of 2 cases; in the others the scores next to the threshold are 3e-05 apart." in text


def test_islands_come_with_their_reasons_and_a_table_for_each_part() -> None:
    rows = [
        {"part": "decoder", "resolution": 1008, "islands": islands, "losses": {"pred_boxes": {"error": error}}}
        for islands, error in (("all", 1e-4), ("no BoxSides", 2e-2))
    ]
    text = "\n".join(describe_losses(results(islands=rows)))
    assert [name for name, why in ISLANDS.items() if f"- `{name}`: {why}" not in text] == []
    assert "| decoder, 1008 | `pred_boxes` |" in text
    assert "| no BoxSides   | 2.0e-02      |" in text
