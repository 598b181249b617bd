"""Writes the two pages of results: the table of a work folder, and a merged table of several runs. Reads no results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from sam3_runtime.core.gpus import names_of
from sam3_runtime.families import FAMILIES
from sam3_runtime.plan.variants import RANDOM_CHECKPOINT
from sam3_runtime.records.memory import CUDA_CONTEXT_MIB
from sam3_runtime.report.tables import Row, cell, columns_of, grid, page

_SPECS = tuple(FAMILIES.values())
_MEMORY = (
    *("weights_mib", "scratch_mib", "buffers_mib", "vram_mib", "vram_no_text_mib", "vram_measured_mib"),
    *("card", "card_no_text"),
)
_ACCURACY = (
    *("status", "engines_mib", "build_s", "precision", "method", "note", "found", "expected", "cosine"),
    *(column for spec in _SPECS for column in (*spec.columns.values(), *spec.accuracy)),
)
_TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
RANDOM_NOTE: str = _TEXTS["random"]


def is_bad(row: Row) -> bool:
    """Return whether a variant fails the run; one that was built for another machine does not."""
    return row["status"] not in ("passed", "unverified")


def checkpoint_is_random(checkpoint: dict[str, Any] | None) -> bool:
    """Return whether a table's ``checkpoint`` has random weights."""
    return bool(checkpoint and (checkpoint.get("random") or checkpoint["name"] == RANDOM_CHECKPOINT))


def legend_of(rows: Sequence[Row]) -> str:
    """Return the meaning of the columns of ``rows``."""
    known = _TEXTS["legends"].items(), *(spec.legend.items() for spec in _SPECS)
    columns = set(columns_of(rows))
    parts = [meaning for legend in known for column, meaning in legend if column in columns]
    unstable = any("(unstable)" in str(value) for row in rows for value in row.values())
    text = " ".join([*parts, *([_TEXTS["unstable"]] if unstable else [])])
    return text.replace("{context}", str(CUDA_CONTEXT_MIB))


def _conditions(*parts: tuple[str, str | Iterable[str] | None]) -> str:
    """``name: value; …`` of what is known."""
    known = ((name, value if isinstance(value, str) else ", ".join(value or ())) for name, value in parts)
    return "; ".join(f"{name}: {value}" for name, value in known if value)


def _checkpoint(table: dict[str, Any]) -> str | None:
    checkpoint = table["checkpoint"]
    return f"{checkpoint['name']} ({checkpoint['digest'][:12]})" if checkpoint else None


def _remarks(table: dict[str, Any]) -> list[str]:
    """Return a line for each variant that did not pass, and the warnings."""
    rows = table["rows"]
    bad = [f"- {row['variant']} is **{row['status']}**: {cell(row['reason'])}" for row in rows if is_bad(row)]
    return [*bad, *(f"- {line}" for line in table["warnings"])]


# --- the table of a work folder ---------------------------------------------------------------------------------------


def _folder_conditions(table: dict[str, Any]) -> str:
    toolchain = table["toolchain"] or {}
    return _conditions(
        ("device", table["device"] or "not measured"),
        ("driver", toolchain.get("driver")),
        ("backend", f"{toolchain['backend']} {toolchain['version']}" if toolchain else None),
        ("compiled for", names_of(table["gpus"]) if table["gpus"] else None),
        ("checkpoint", _checkpoint(table)),
        ("measured", table["measured"] or "never"),
        ("table of", table["date"]),
    )


def folder_markdown(table: dict[str, Any]) -> str:
    """Return the table of a work folder: accuracy, memory and speed, and the reasons of variants that did not pass."""
    rows = table["rows"]
    columns = [column for column in columns_of(rows) if column not in ("variant", "reason")]
    speed = [column for column in columns if column not in (*_ACCURACY, *_MEMORY)]
    parts = []
    for group in (_ACCURACY, _MEMORY, speed):
        chosen = [column for column in columns if column in group]
        if chosen:
            shown = [{column: row.get(column) for column in ("variant", *chosen)} for row in rows]
            parts += [grid(shown, ["variant", *chosen]), legend_of(shown)]
    unverified = dict.fromkeys(cell(row["reason"]) for row in rows if row["status"] == "unverified")
    return page(
        "# Engine variants",
        "**partial: the run ended with an error**" if table["partial"] else None,
        _folder_conditions(table),
        *parts,
        _TEXTS["not_run"] if unverified and not speed else None,
        *_remarks(table),
        *(f"- built, not verified: {reason}" for reason in unverified),
        RANDOM_NOTE if checkpoint_is_random(table["checkpoint"]) else None,
    )


def _all_columns(table: dict[str, Any]) -> list[str]:
    """Every column, the reason last."""
    return [column for column in columns_of(table["rows"]) if column != "reason"] + ["reason"]


def folder_csv(table: dict[str, Any]) -> str:
    """Return the rows of a work folder's table as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _all_columns(table), lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(table["rows"])
    return buffer.getvalue()


def folder_html(table: dict[str, Any]) -> str:
    """Return the table of a work folder as a page of HTML, whose text is escaped."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("sam3_runtime.report", ".")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("report.html.j2")
    rows = table["rows"]
    return template.render(
        table=table, rows=rows, columns=_all_columns(table), cell=cell, conditions=_folder_conditions(table),
        legend=legend_of(rows),
    )  # fmt: skip


# --- a merged table ---------------------------------------------------------------------------------------------------

_UNITS = {"sm_mhz": ("SM", "MHz"), "memory_mhz": ("memory", "MHz"), "temperature_c": ("", "°C"), "power_w": ("", "W")}


def merged_markdown(table: dict[str, Any]) -> str:
    """Return a merged table: a section for each question, and the reasons of variants that did not pass."""
    parts = []
    for key, text in _TEXTS["sections"].items():
        rows = [{"variant": row["variant"], **line} for row in table["rows"] for line in row.get(key, []) if line]
        if rows:
            parts += [f"## {text['title']}", grid(rows), " ".join(filter(None, (legend_of(rows), text["legend"])))]
    ways = ["## PyTorch alone", grid(table["ways"]), _TEXTS["pytorch"]] if table["ways"] else []
    return page(
        "# Engine variants, measured",
        _merged_conditions(table),
        RANDOM_NOTE if checkpoint_is_random(table["checkpoint"]) else None,
        *parts,
        *_remarks(table),
        *ways,
    )


def _merged_conditions(table: dict[str, Any]) -> str:
    clocks = [
        f"{label} {low:g}{'' if low == high else f'–{high:g}'} {unit}".strip()
        for name, (label, unit) in _UNITS.items()
        for low, high in [table["clocks"].get(name, (None, None))]
        if low is not None
    ]
    shown = _conditions(
        ("GPU", table["device"] or "not measured"),
        ("driver", table["driver"] or "unknown"),
        ("backend", table["backend"]),
        ("during the measurement", clocks or "clocks unknown"),
        ("checkpoint", _checkpoint(table)),
        ("prompts", map(str, table["prompts"])),
        ("measured", table["dates"]),
    )
    return f"{shown}. Generated by `sam3-runtime table` from the JSON beside it; do not edit."
