"""Writes the part of ``docs/parity.md`` about float16, from the results of ``losses.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sam3_runtime.families.sam3.export.islands import ISLANDS

_HOW = """
## What float16 costs

The float16 graphs (`precision: fp16`) run on the CPU with **every result rounded to the type that the graph declares**
(`export/rounded.py`): each node computes and accumulates in float32 from float16 inputs, as tensor cores and NVIDIA's
normalisations do. ONNX Runtime alone keeps float32 between the nodes on a CPU. Losses are 1 - cosine to transformers in
float32, and the largest absolute error. Largest values do not count scores under the additive mask, which are at least
-20000; the largest float16 is 65504. Small checkpoint: the demo's photographs, each part on the outputs of the parts
before, without and with 7 boxes. It was trained on coloured shapes and finds nothing there, so that its threshold is in
a gap between two scores; where that is narrower than the change of scores, there is a tie.
"""


def describe_losses(results: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``docs/parity.md`` about float16."""
    lines = _HOW.splitlines()
    for row in results["chain"]:
        lines += ["", f"Small checkpoint at {row['resolution']}:", "", "| output | 1 - cosine | largest error |"]
        lines += ["|---|---|---|"]
        lines += [f"| `{name}` | {_numbers(one)} |" for name, one in row["losses"].items()]
        values = ", ".join(f"{part} {value:.1f} (`{node}`)" for part, (node, value) in row["largest"].items())
        same = [one["gap"] for one in row["detections"] if one["same"]]
        other = [f"{one['gap']:.0e}" for one in row["detections"] if not one["same"]]
        lines += ["", f"Largest values: {values}."]
        count = f"The same queries are detected in {len(same)} of {len(row['detections'])} cases"
        ties = f"; in the others the scores next to the threshold are {', '.join(other)} apart" if other else ""
        lines += [f"{count}{ties}."]
    for row in results.get("vision", ()):
        values = ", ".join(f"{value:.1f} (`{node}`)" for node, value in row["largest"])
        lines += [
            "",
            f"Full-size vision encoder (`random`) at {row['resolution']}, one photograph; largest values {values}:",
        ]
        lines += ["", "| output | 1 - cosine | largest error |", "|---|---|---|"]
        lines += [f"| `{name}` | {_numbers(one)} |" for name, one in row["losses"].items()]
    if results.get("islands"):
        lines += _describe_islands(results["islands"])
    return lines


def _describe_islands(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "",
        "## FP32 exceptions (islands)",
        "",
        "The modules that stay in float32 (`export/islands.py`), and the effect of each. Full size (`random`), seeded",
        "inputs, each part alone; the largest absolute error of each output.",
        "",
    ]
    lines += [f"- `{name}`: {why}" for name, why in ISLANDS.items()]
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        names = list(mine[0]["losses"])
        lines += ["", f"| {part}, {mine[0]['resolution']} | {' | '.join(f'`{name}`' for name in names)} |"]
        lines += [f"|{'---|' * (len(names) + 1)}"]
        lines += [
            f"| {row['islands']} | {' | '.join(format(row['losses'][name]['error'], '.1e') for name in names)} |"
            for row in mine
        ]
    return lines


def _numbers(one: Mapping[str, float]) -> str:
    return f"{one['cosine_loss']:.1e} | {one['error']:.1e}"
