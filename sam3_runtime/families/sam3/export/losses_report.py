"""The part of ``docs/parity.md`` about float16: tables from what ``losses.py`` measured. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sam3_runtime.families.sam3.export.islands import ISLANDS

_HOW = """
## What float16 costs

The float16 graphs (`precision: fp16`), run node by node in PyTorch on the CPU: each node computes and adds up in
float32 from float16 inputs, as tensor cores and NVIDIA's normalisations do, and **every node's result is rounded to the
type that the graph says** (`export/rounded.py`; run so, the float32 graphs are within 2e-5 of transformers). ONNX
Runtime's own CPU kernels keep float32 between the nodes, and are no judge. Losses are 1 - cosine to transformers in
float32, and the largest absolute error. Largest values leave out scores under the additive mask, which are -20000 at
the least; float16 ends at 65504. Small checkpoint: the demo's photographs, each part reading what the last one said,
without and with 7 boxes. It knows coloured shapes and finds nothing there, so that its threshold lies in a gap between
two scores; where that is narrower than what scores change by, there is a tie.
"""


def describe_losses(results: Mapping[str, Any]) -> list[str]:
    """The lines of ``docs/parity.md`` about float16."""
    lines = _HOW.splitlines()
    for row in results["chain"]:
        lines += ["", f"Small checkpoint at {row['resolution']}:", "", "| output | 1 - cosine | largest error |"]
        lines += ["|---|---|---|"]
        lines += [f"| `{name}` | {_numbers(one)} |" for name, one in row["losses"].items()]
        values = ", ".join(f"{part} {value:.1f} (`{node}`)" for part, (node, value) in row["largest"].items())
        same = [one["gap"] for one in row["detections"] if one["same"]]
        other = [f"{one['gap']:.0e}" for one in row["detections"] if not one["same"]]
        lines += ["", f"Largest values: {values}."]
        said = f"The same queries are detected in {len(same)} of {len(row['detections'])} cases"
        lines += [
            said + (f"; in the others the scores beside the threshold are {', '.join(other)} apart." if other else ".")
        ]
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
        "## Islands",
        "",
        "What stays in float32 (`export/islands.py`), and what each is worth. Full size (`random`),",
    ]
    lines += ["seeded inputs, each part by itself; the largest absolute error of each output.", ""]
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
