"""Writes the part of ``docs/parity.md`` about float16, from the results of ``losses.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sam3_runtime.families.sam3.export.islands import ISLANDS
from sam3_runtime.report.tables import table

_METHOD = """\
The float16 graphs (`precision: fp16`) run on the CPU with **every result rounded to the type that the graph declares**
(`export/rounded.py`): each node computes and accumulates in float32 from float16 inputs, as tensor cores and NVIDIA's
normalisations do. ONNX Runtime alone keeps float32 between the nodes on a CPU. Losses are 1 - cosine to transformers in
float32, and the largest absolute error. Largest values do not count scores under the additive mask, which are at least
-20000; the largest float16 is 65504. Small checkpoint: the demo's photographs, each part on the outputs of the parts
before, without and with 7 boxes. It was trained on coloured shapes and finds nothing there, so that its threshold is in
a gap between two scores; where that is narrower than the change of scores, there is a tie."""
_ISLANDS = """\
The modules that stay in float32 (`export/islands.py`), and the effect of each. Full size (`random`), seeded inputs,
each part alone; the largest absolute error of each output."""


def describe_losses(results: Mapping[str, Any]) -> list[str]:
    """Return the paragraphs and tables of ``docs/parity.md`` about float16."""
    parts = ["## What float16 costs", _METHOD]
    for row in results["chain"]:
        values = ", ".join(f"{part} {value:.1f} (`{node}`)" for part, (node, value) in row["largest"].items())
        same = sum(one["same"] for one in row["detections"])
        gaps = [f"{one['gap']:.0e}" for one in row["detections"] if not one["same"]]
        ties = f"; in the others the scores next to the threshold are {', '.join(gaps)} apart" if gaps else ""
        detected = f"The same queries are detected in {same} of {len(row['detections'])} cases{ties}."
        parts += [f"Small checkpoint at {row['resolution']}:", _losses(row), f"Largest values: {values}.\n{detected}"]
    for row in results.get("vision", ()):
        values = ", ".join(f"{value:.1f} (`{node}`)" for node, value in row["largest"])
        where = f"Full-size vision encoder (`random`) at {row['resolution']}, one photograph; largest values {values}:"
        parts += [where, _losses(row)]
    return parts + (_describe_islands(results["islands"]) if results.get("islands") else [])


def _describe_islands(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    reasons = "\n".join(f"- `{name}`: {why}" for name, why in ISLANDS.items())
    parts = ["## FP32 exceptions (islands)", _ISLANDS, reasons]
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        names = list(mine[0]["losses"])
        head = [f"{part}, {mine[0]['resolution']}", *(f"`{name}`" for name in names)]
        parts.append(
            table(head, ([row["islands"], *(f"{row['losses'][name]['error']:.1e}" for name in names)] for row in mine))
        )
    return parts


def _losses(row: Mapping[str, Any]) -> str:
    rows = ((f"`{name}`", f"{one['cosine_loss']:.1e}", f"{one['error']:.1e}") for name, one in row["losses"].items())
    return table(("output", "1 - cosine", "largest error"), rows)
