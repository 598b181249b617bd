"""The table as text: Markdown, CSV and HTML, from the plain data that ``report.py`` gathered, and nothing else."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from typing import Any

from sam3_runtime.core.gpus import names_of
from sam3_runtime.families import FAMILIES
from sam3_runtime.measure.memory import CUDA_CONTEXT_MIB
from sam3_runtime.plan.variants import RANDOM_CHECKPOINT

Row = dict[str, Any]


def _columns(table: dict[str, Any]) -> list[str]:
    """Columns that any row has, in order of first appearance; the reason, being prose, last."""
    seen = dict.fromkeys(column for row in table["rows"] for column in row)
    return [column for column in seen if column != "reason"] + ["reason"]


def cell(value: Any) -> str:
    return "–" if value is None else str(value).replace("\n", " ")


def percent(share: float) -> str:
    """A share for people. What is there is never 0 %, and what is not the whole is never 100 %."""
    shown = f"{share:.0%}"
    if shown == "0%" and share > 0:
        return "<1%"
    return ">99%" if shown == "100%" and share < 1 else shown


def _conditions(table: dict[str, Any]) -> str:
    toolchain, checkpoint = table["toolchain"], table["checkpoint"]
    parts = ["**partial: the run ended with an error**"] if table["partial"] else []
    parts.append(f"device: {', '.join(table['device']) or 'not measured'}")
    if toolchain and toolchain.get("driver"):
        parts.append(f"driver: {toolchain['driver']}")
    if toolchain:
        parts.append(f"backend: {toolchain['backend']} {toolchain['version']}")
    if table["gpus"]:
        parts.append(f"compiled for: {names_of(table['gpus'])}")
    if checkpoint:
        parts.append(f"checkpoint: {checkpoint['name']} ({checkpoint['digest'][:12]})")
    parts += [f"measured: {', '.join(table['measured']) or 'never'}", f"table of: {table['date']}"]
    return "; ".join(parts)


_MEMORY = (
    *("weights_mib", "scratch_mib", "buffers_mib", "vram_mib", "vram_no_text_mib", "vram_measured_mib"),
    *("card", "card_no_text"),
)
_MEMORY_LEGEND = (
    "Memory on the card is **predicted** from the engines' records, in MiB: `vram_mib` is weights, one block of "
    "scratch that the engines take in turn, and buffers at the largest batch; `vram_no_text_mib` once what comes on "
    "demand, such as a text encoder, is released. `card` is the smallest of 6, 8, 12, 16 and 24 GB that it fits in, "
    f"with {CUDA_CONTEXT_MIB} MiB assumed for the CUDA context. `vram_measured_mib` is the most that the process was "
    "seen to take, context included."
)
_NOT_MEASURED = "**not run on any RTX card**: accuracy and speed are not measured; that needs one."
_SPECS = tuple(FAMILIES.values())
_ACCURACY = (
    *("note", "precision", "method", "found", "expected", "cosine"),
    *(column for spec in _SPECS for column in (*spec.columns.values(), *spec.accuracy)),
    *("engines_mib", "build_s"),
)
_STATUS_LEGEND = (
    "`status`: `passed` means within every limit of `gate:` beside float32 PyTorch, `rejected` that one is exceeded, "
    "`failed` that a job ended with an error, `missing` not built yet, `unverified` built for another machine and not "
    "run. `precision` is what was asked for: `fp32+int8` has one part in INT8 and the rest in float32. `cosine` is the "
    "lowest of all outputs against float32 PyTorch."
)
_METHOD_LEGEND = (
    "`method` is where the scales of 8 bits come from: `qdq`, measured in PyTorch and written into the graph, or "
    "`calibrator`, measured by TensorRT while it builds."
)
_UNSTABLE_LEGEND = (
    "`(unstable)` stands where the time windows of a measurement differ by more than a tenth: the machine had other "
    "work too; measure again for a number that counts."
)
_TIMES_LEGEND = (
    "Stage times are medians in ms for one camera, or for a round of N where they are called `Ncam_…`, the device "
    "waited for at each border. `Ncam_ms` is one round of N images, one from each camera, from preprocessing to "
    "postprocessing, images decoded beforehand; `Ncam_fps` is rounds per second. `memory_mib` is the process's largest "
    "resident set. `engines_mib` and `build_s` are the sums over the engines, those that variants share or that "
    "came from the cache included."
)


def of_families(rows: Sequence[Row]) -> list[str]:
    """What families say of the columns that are there."""
    known = [one for spec in _SPECS for one in spec.legend.items()]
    return [meant for column, meant in known if any(column in row for row in rows)]


def legend(rows: Sequence[Row]) -> str:
    """What the columns mean, and the words in them."""
    parts = [_STATUS_LEGEND]
    if any(row.get("method") for row in rows):
        parts.append(_METHOD_LEGEND)
    parts += [*of_families(rows), _TIMES_LEGEND]
    if any("(unstable)" in str(value) for row in rows for value in row.values()):
        parts.append(_UNSTABLE_LEGEND)
    return " ".join(parts)


RANDOM_NOTE = "**The weights are random: times and memory are real, answers are not.**"


def checkpoint_is_random(checkpoint: dict[str, Any] | None) -> bool:
    return bool(checkpoint and (checkpoint.get("random") or checkpoint["name"] == RANDOM_CHECKPOINT))


def markdown(table: dict[str, Any]) -> str:
    """Narrow tables, accuracy, memory and speed, and the reasons of what did not pass."""
    rows = table["rows"]
    columns = [column for column in _columns(table) if column not in ("variant", "status", "reason")]
    parts = [f"# Engine variants\n\n{_conditions(table)}"]
    parts.append(grid(rows, ["variant", "status", *(column for column in columns if column in _ACCURACY)]))
    memory = [column for column in columns if column in _MEMORY]
    if memory:
        parts += [grid(rows, ["variant", *memory]), _MEMORY_LEGEND]
    speed = [column for column in columns if column not in (*_ACCURACY, *_MEMORY)]
    if speed:
        parts.append(grid(rows, ["variant", *speed]))
    elif any(row["status"] == "unverified" for row in rows):
        parts.append(_NOT_MEASURED)
    parts += [f"- {row['variant']} is **{row['status']}**: {cell(row['reason'])}" for row in rows if is_bad(row)]
    parts += [f"- built, not judged: {reason}" for reason in dict.fromkeys(_reasons(rows, "unverified"))]
    parts += [f"- {line}" for line in table["warnings"]]
    if checkpoint_is_random(table["checkpoint"]):
        parts.append(RANDOM_NOTE)
    return "\n\n".join([*parts, legend(rows)]) + "\n"


def _reasons(rows: Sequence[Row], status: str) -> list[str]:
    return [cell(row["reason"]) for row in rows if row["status"] == status]


def grid(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table whose columns line up as text too."""
    cells = [list(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def is_bad(row: Row) -> bool:
    """Whether a variant fails the run. What was built for another machine is not bad: it is not judged."""
    return row["status"] not in ("passed", "unverified")


def as_csv(table: dict[str, Any]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(table), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table["rows"])
    return buffer.getvalue()


def as_html(table: dict[str, Any]) -> str:
    columns = _columns(table)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    rows = "".join(
        f'<tr class="{html.escape(row["status"])}">'
        + "".join(f"<td>{html.escape(cell(row.get(column)))}</td>" for column in columns)
        + "</tr>\n"
        for row in table["rows"]
    )
    style = (
        "body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "th,td{padding:.3em .6em;border:1px solid #ccc;text-align:right}td:first-child,th:first-child,td:last-child"
        "{text-align:left}tr.rejected,tr.failed{background:#fdd}tr.missing{color:#888}"
    )
    conditions = html.escape(_conditions(table).replace("**", ""))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Engine variants</title><style>{style}</style>\n'
        f"<h1>Engine variants</h1><p>{conditions}</p>\n<table><tr>{head}</tr>\n{rows}</table>"
        f"<p>{html.escape(legend(table['rows']))}</p></html>\n"
    )
