"""A joined table as Markdown: what it was measured on, then a narrow table for each question. Reads no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam3_runtime.report.text import RANDOM_NOTE, Row, cell, checkpoint_is_random, grid, is_bad, of_families

_UNITS = {"sm_mhz": ("SM", "MHz"), "memory_mhz": ("memory", "MHz"), "temperature_c": ("", "°C"), "power_w": ("", "W")}
SECTIONS = {
    "accuracy": (
        "Accuracy and sizes",
        "`cosine` is the lowest of all outputs against float32 PyTorch. `vision precision` is the share of the matrix "
        "work by the type that it is done in, of the part that may be in 8 bits, as TensorRT's inspector tells; "
        "TensorRT 8.6 tells nothing of what it fuses into one block. Of other backends it is the share of the graph's "
        "matrix products. `engines MiB` and `build s` are the sums over the engines, those that variants share or that "
        "came from the cache included.",
    ),
    "memory": (
        "Memory on the GPU, MiB",
        "`predicted` is weights, one block of scratch and buffers, the text encoder released, without the CUDA "
        "context. `loaded`, `ready` (prompts encoded) and `peak` (during rounds) were measured, the context included: "
        "`process` is what the driver books on the process, `difference` what the card had in use more than before, "
        "`device` all that is in use on it.",
    ),
    "speed": (
        "Speed, ms an image",
        "A round is one image from each camera, from preprocessing to masks at the picture's size on the host, images "
        "decoded beforehand. `end to end` is its median divided by the cameras; `round`, `mean`, `p95` and `p99` are "
        "of whole rounds, and so are `masks kept`. Stages are of other rounds, in which the GPU is waited for at each "
        "border.",
    ),
    "parts": (
        "Each part alone, ms",
        "Inputs on the device, waited for before each reading of the clock. What sees images alone, an image; what is "
        "asked prompts, a call: P prompts, N images whose features the decoder reads (N = 1: all prompts on one "
        "image; N = P: one prompt on each image).",
    ),
    "beside": (
        "Beside PyTorch on the same GPU",
        "How many times as long the model's own library, and the same with `torch.compile`, take at the same "
        "resolution and batch: above 1 this project is faster. End to end only where prompts and masks kept are as "
        "many.",
    ),
    "graphs": ("CUDA graphs", "Without → with, ms a call or a round, and what of it is saved."),
}


def markdown(table: dict[str, Any]) -> str:
    """The whole page."""
    rows = table["rows"]
    parts = ["# Engine variants, measured", _conditions(table)]
    if checkpoint_is_random(table["checkpoint"]):
        parts.append(RANDOM_NOTE)
    for section, (title, legend) in SECTIONS.items():
        shown = [{"variant": row["variant"], **line} for row in rows for line in row.get(section, []) if line]
        if shown:
            parts += [f"## {title}", grid(shown, _columns(shown)), " ".join([*of_families(shown), legend])]
    parts += [f"- {row['variant']} is **{row['status']}**: {cell(row['reason'])}" for row in rows if is_bad(row)]
    parts += [f"- {line}" for line in table["warnings"]]
    if table["ways"]:
        parts += ["## PyTorch alone", grid(table["ways"], _columns(table["ways"])), _WAYS]
    return "\n\n".join(parts) + "\n"


_WAYS = (
    "End to end from the picture in the host's memory to masks at its size, which stay on the GPU, where transformers "
    "leaves them; text encoded beforehand. Memory is that of PyTorch's allocator, the CUDA context not included; "
    "`compile s` is what the first calls took."
)


def _columns(rows: Sequence[Row]) -> list[str]:
    """Columns that any row has a value in, in order of first appearance."""
    return list(dict.fromkeys(column for row in rows for column, value in row.items() if value is not None))


def _conditions(table: dict[str, Any]) -> str:
    checkpoint = table["checkpoint"]
    clocks = [
        f"{label} {low:g}–{high:g} {unit}".strip() if low != high else f"{label} {low:g} {unit}".strip()
        for name, (label, unit) in _UNITS.items()
        if name in table["clocks"]
        for low, high in [table["clocks"][name]]
    ]
    parts = [
        f"GPU: {', '.join(table['device']) or 'not measured'}",
        f"driver: {', '.join(table['driver']) or 'unknown'}",
        *([f"backend: {', '.join(table['backend'])}"] if table["backend"] else []),
        f"while it ran: {', '.join(clocks) or 'clocks unknown'}",
        *([f"checkpoint: {checkpoint['name']} ({checkpoint['digest'][:12]})"] if checkpoint else []),
        *([f"prompts: {', '.join(map(str, table['prompts']))}"] if table["prompts"] else []),
        *([f"measured: {', '.join(table['dates'])}"] if table["dates"] else []),
    ]
    return "; ".join(parts) + ". Generated by `sam3-runtime table` from the JSON beside it, by hand never."
