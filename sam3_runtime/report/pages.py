"""Writes the two pages of results: the table of a work folder, and a merged table of several runs. Reads no results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from sam3_runtime.core.gpus import names_of
from sam3_runtime.families import FAMILIES
from sam3_runtime.measure.memory import CUDA_CONTEXT_MIB
from sam3_runtime.plan.variants import RANDOM_CHECKPOINT
from sam3_runtime.report.tables import Row, cell, columns_of, grid, page

RANDOM_NOTE = "**The weights are random: times and memory are real, answers are not.**"
_SPECS = tuple(FAMILIES.values())
_MEMORY = (
    *("weights_mib", "scratch_mib", "buffers_mib", "vram_mib", "vram_no_text_mib", "vram_measured_mib"),
    *("card", "card_no_text"),
)
_ACCURACY = (
    *("status", "engines_mib", "build_s", "precision", "method", "note", "found", "expected", "cosine"),
    *(column for spec in _SPECS for column in (*spec.columns.values(), *spec.accuracy)),
)
LEGENDS = {
    "status": "`status`: `passed`: within every limit of `gate:` against float32 PyTorch; `rejected`: a limit is "
    "exceeded; `failed`: a job ended with an error; `missing`: not built yet; `unverified`: built for another machine "
    "and not run.",
    "precision": "`precision` is the requested one: `fp32+int8` has one part in INT8 and the others in float32.",
    "vision precision": "`vision precision` is the share of matrix work by the type that computes it, for the part "
    "that can be in 8 bits, as TensorRT's inspector reports it; TensorRT 8.6 reports nothing about fused blocks. With "
    "other backends it is the share of the graph's matrix products.",
    "method": "`method` is the origin of the 8-bit scales: `qdq`, measured in PyTorch and written into the graph, or "
    "`calibrator`, measured by TensorRT during the build.",
    "engines_mib": "`engines_mib` and `build_s` are sums over the engines, including shared and cached ones.",
    "cosine": "`cosine` is the lowest over all outputs, against float32 PyTorch.",
    **{column: meaning for spec in _SPECS for column, meaning in spec.legend.items()},
    "vram_mib": "GPU memory is **predicted** from the engines' records, in MiB: `vram_mib` is the sum of weights, one "
    "block of scratch that the engines share, and buffers at the largest batch; `vram_no_text_mib` is without the "
    "parts that are loaded on demand, such as a text encoder. `card` is the smallest GPU of 6, 8, 12, 16 and 24 GB "
    f"that it fits in, assuming {CUDA_CONTEXT_MIB} MiB for the CUDA context.",
    "vram_measured_mib": "`vram_measured_mib` is the largest measured use of the process, context included.",
    "memory_mib": "Stage times are medians in ms for one camera, or for a round of N if named `Ncam_…`, with a "
    "synchronisation after each stage. `Ncam_ms` is one round of N images, one from each camera, from preprocessing to "
    "postprocessing, images decoded beforehand; `Ncam_fps` is rounds per second. `memory_mib` is the largest resident "
    "set of the process.",
}
"""The meaning of columns, by the first column that a text is about."""
_UNSTABLE = (
    "`(unstable)`: the medians of the measurement's time windows differ by more than a tenth, because the machine had "
    "other work too; measure again for a reliable number."
)
_NOT_MEASURED = "**Not run on any RTX GPU**: accuracy and speed are not measured."


def is_bad(row: Row) -> bool:
    """Return whether a variant fails the run; one that was built for another machine does not."""
    return row["status"] not in ("passed", "unverified")


def checkpoint_is_random(checkpoint: dict[str, Any] | None) -> bool:
    """Return whether a table's ``checkpoint`` has random weights."""
    return bool(checkpoint and (checkpoint.get("random") or checkpoint["name"] == RANDOM_CHECKPOINT))


def legend_of(rows: Sequence[Row]) -> str:
    """Return the meaning of the columns of ``rows``."""
    columns = set(columns_of(rows))
    parts = [meaning for column, meaning in LEGENDS.items() if column in columns]
    unstable = any("(unstable)" in str(value) for row in rows for value in row.values())
    return " ".join([*parts, *([_UNSTABLE] if unstable else [])])


def _conditions(*parts: tuple[str, str | Iterable[str] | None]) -> str:
    """``name: value; …`` of what is known."""
    known = ((name, value if isinstance(value, str) else ", ".join(value or ())) for name, value in parts)
    return "; ".join(f"{name}: {value}" for name, value in known if value)


def _checkpoint(table: dict[str, Any]) -> str | None:
    checkpoint = table["checkpoint"]
    return f"{checkpoint['name']} ({checkpoint['digest'][:12]})" if checkpoint else None


def _remarks(table: dict[str, Any]) -> list[str]:
    """A line for each variant that did not pass, and the warnings."""
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
        _NOT_MEASURED if unverified and not speed else None,
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
SECTIONS = {
    "accuracy": ("Accuracy and sizes", ""),
    "memory": (
        "GPU memory, MiB",
        "`predicted` is the sum of weights, one block of scratch and buffers, without the text encoder and without the "
        "CUDA context. `loaded`, `ready` (prompts encoded) and `peak` (during rounds) were measured, context included. "
        "`measured as`: `process` is the driver's figure for the process, `difference` the increase of the memory in "
        "use on the GPU, `device` all memory in use on it.",
    ),
    "speed": (
        "Speed, ms an image",
        "A round is one image from each camera, from preprocessing to the results on the host (masks at the size of "
        "the image), images decoded beforehand. `end to end` is its median divided by the cameras; `round`, `mean`, "
        "`p95`, `p99` and `results` are of whole rounds. Stages are measured in separate rounds, with a "
        "synchronisation after each stage.",
    ),
    "parts": (
        "Each part alone, ms",
        "Inputs on the device, synchronised before each reading of the clock. Parts that read images alone: per image. "
        "Parts that read prompts: per call of P prompts; the decoder reads the features of N images (N = 1: all "
        "prompts on one image; N = P: one prompt on each image).",
    ),
    "beside": (
        "Compared with PyTorch on the same GPU",
        "The time of the model's own library, plain and with `torch.compile`, as a multiple of ours at the same "
        "resolution and batch: above 1 this project is faster. End to end is compared only where the numbers of "
        "prompts and masks are equal.",
    ),
    "graphs": ("CUDA graphs", "Time without → with CUDA graphs, ms per call or round, and the share saved."),
}
"""Sections of a merged page, by their key in a row: title and legend."""
_WAYS = (
    "End to end from the image in host memory to masks at its size, which stay on the GPU as with transformers; text "
    "encoded beforehand. Memory is that of PyTorch's allocator, without the CUDA context; `compile s` is the time "
    "of the first calls."
)


def merged_markdown(table: dict[str, Any]) -> str:
    """Return a merged table: a section for each question, and the reasons of variants that did not pass."""
    parts = []
    for section, (title, legend) in SECTIONS.items():
        rows = [{"variant": row["variant"], **line} for row in table["rows"] for line in row.get(section, []) if line]
        if rows:
            parts += [f"## {title}", grid(rows), " ".join(filter(None, (legend_of(rows), legend)))]
    ways = ["## PyTorch alone", grid(table["ways"]), _WAYS] if table["ways"] else []
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
