"""Compares 8-bit variants of a table with their floating-point siblings: speed, and the share of work in 8 bits.

Pure: works on records that were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam3_runtime.core.wording import counted, percent
from sam3_runtime.families import main_part
from sam3_runtime.families.base import EIGHT_BIT
from sam3_runtime.records.measurements import Measured
from sam3_runtime.records.records import UNKNOWN, Layers

NOT_WORTH_IT = "not worth it"


def main_engine(found: Measured) -> dict[str, Any]:
    """Return the record of the part that may be in 8 bits; empty if the variant has no such engine."""
    part = main_part(found.engines)
    return found.engines.get(part.name, {}) if part else {}


def method_of(found: Measured) -> str | None:
    """Return the origin of the 8-bit scales, ``qdq`` or ``calibrator``; None for a variant without 8 bits."""
    engine = main_engine(found)
    if not engine.get("quantize"):
        return None
    # A graph that contains scales is named after their type.
    return "qdq" if str(engine["graph"]).endswith(engine["quantize"]) else "calibrator"


def name_of(found: Measured) -> str:
    """Return the name of the variant, with the method where it is not the default."""
    return f"{found.variant} (calibrator)" if method_of(found) == "calibrator" else found.variant


def main_ms(found: Measured) -> tuple[int, float] | None:
    """Return the largest measured batch of the main part, and its milliseconds an image; None if not measured.

    The part's own measurement where there is one, else its stage of the rounds with the most cameras.
    """
    main = main_part(found.bench.engines) if found.bench else None
    if found.bench is None or main is None:
        return None
    alone = [part for part in found.bench.parts if part.part == main.name]
    if alone:
        largest = max(alone, key=lambda part: part.images)
        return largest.images, largest.per_image
    rounds = max(found.bench.cameras, key=lambda camera: camera.cameras)
    return rounds.cameras, rounds.stages[main.stage].median / rounds.cameras


def slower_than_sibling(found: Measured, others: Sequence[Measured]) -> str | None:
    """Return a warning if the 8-bit part is slower than that of the floating-point variant of the same axes."""
    plain, _, form = found.variant.rpartition("_")
    sibling = next((one for one in others if one.variant == plain), None) if form in EIGHT_BIT else None
    ours, theirs = main_ms(found), main_ms(sibling) if sibling else None
    if ours is None or theirs is None or ours[0] != theirs[0] or ours[1] <= theirs[1]:
        return None
    more = (ours[1] / theirs[1] - 1) * 100
    return (
        f"{name_of(found)} is **{NOT_WORTH_IT}** here: its {_main_name(found)} takes {ours[1]:.2f} ms an image at "
        f"{counted(ours[0], 'image')}, {more:.1f} % more than {plain} ({theirs[1]:.2f} ms)"
    )


def eight_bit_share(found: Measured) -> float | None:
    """Return the share of matrix work in 8 bits; None for a variant without 8 bits, or if too little is known."""
    engine = main_engine(found)
    layers = engine.get("layers") if engine.get("quantize") else None
    return Layers.model_validate(layers).eight_bit_share if layers else None


def warnings_of(found: Sequence[Measured]) -> list[str]:
    """Return the warnings about the 8-bit variants of a table."""
    lines = [line for one in found if (line := slower_than_sibling(one, found))]
    for one in found:
        engine = main_engine(one)
        products = engine.get("precision_got")
        # As with convolutions in ONNX Runtime.
        if engine.get("quantize") and not engine.get("layers") and products and engine["quantize"] not in products:
            lines.append(
                f"{name_of(one)} rounds to {engine['quantize']} and **computes in float**: {engine['backend']} runs "
                "none of its products in 8 bits, so it shows the accuracy of 8 bits, not their speed"
            )
    for one in found:
        share = eight_bit_share(one)
        if share is not None and share < 0.5:
            what = f"only {percent(share)} of the matrix work of its {_main_name(one)} runs in 8 bits"
            lines.append(f"{name_of(one)}: {what}, as far as TensorRT reports it")
    return lines


def _main_name(found: Measured) -> str:
    part = main_part(found.engines)
    return part.name.replace("-", " ") if part else "engine"


def precision_used(engine: dict[str, Any]) -> str | None:
    """Return the types that an engine computes in, with their shares; None if its record does not contain them.

    Shares are of the matrix work where the record has it, else of the number of matrix products. Work that TensorRT
    does not report is listed as such, with the version.
    """
    counts = dict((engine.get("layers") or {}).get("work") or engine.get("precision_got") or {})
    total = sum(counts.values())
    if not total:
        return None
    hidden = counts.pop(UNKNOWN, 0)
    shares = [f"{kind} {percent(work / total)}" for kind, work in sorted(counts.items(), key=lambda item: -item[1])]
    if hidden:
        shares.append(f"{percent(hidden / total)} not reported by TensorRT {engine['toolchain']['version']}")
    return ", ".join(shares)
