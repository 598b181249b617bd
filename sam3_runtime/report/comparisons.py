"""What one variant is beside another in the same table: whether 8 bits were worth it, and how much of it they are.

Pure: works on what tables hold, reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sam3_runtime.core.wording import counted
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.measurements import Measured
from sam3_runtime.records.records import UNKNOWN, Layers
from sam3_runtime.report.text import percent

VISION = "vision-encoder"
NOT_WORTH_IT = "not worth it"
_HALF = 0.5


def method_of(found: Measured) -> str | None:
    """How the 8-bit encoder got its scales, ``qdq`` or ``calibrator``; None for a variant without 8 bits."""
    vision = found.engines.get(VISION)
    if not vision or not vision["quantize"]:
        return None
    # Scales that are written into a graph make it a graph of its own, named after its type.
    return "qdq" if str(vision["graph"]).endswith(vision["quantize"]) else "calibrator"


def name_of(found: Measured) -> str:
    """The variant's name, with the method where that is not the usual one."""
    method = method_of(found)
    return f"{found.variant} ({method})" if method == "calibrator" else found.variant


def vision_ms(found: Measured) -> tuple[int, float] | None:
    """Images at once, and milliseconds an image, of the vision encoder at the most images that it was measured with.

    Alone where it was measured alone, else as a stage of the rounds with the most cameras.
    """
    if found.bench is None:
        return None
    alone = [part for part in found.bench.parts if part.part == VISION]
    if alone:
        most = max(alone, key=lambda part: part.images)
        return most.images, most.per_image
    rounds = max(found.bench.cameras, key=lambda camera: camera.cameras)
    return rounds.cameras, rounds.stages["vision"].median / rounds.cameras


def sibling_of(found: Measured, others: Sequence[Measured]) -> Measured | None:
    """The variant of the same batch, queries and resolution without 8 bits, where it is in the table."""
    variant = Variant.from_name(found.variant)
    plain = replace(variant, quantize="none").name
    return next((one for one in others if one.variant == plain), None) if variant.quantize != "none" else None


def slower_than_sibling(found: Measured, others: Sequence[Measured]) -> str | None:
    """Says so where an 8-bit variant's vision encoder takes longer than that of its floating-point sibling."""
    sibling = sibling_of(found, others)
    ours, theirs = vision_ms(found), vision_ms(sibling) if sibling else None
    if sibling is None or ours is None or theirs is None or ours[0] != theirs[0] or ours[1] <= theirs[1]:
        return None
    more = (ours[1] / theirs[1] - 1) * 100
    return (
        f"{name_of(found)} is **{NOT_WORTH_IT}** here: its vision encoder takes {ours[1]:.2f} ms an image at "
        f"{counted(ours[0], 'image')}, {more:.1f} % more than {sibling.variant} ({theirs[1]:.2f} ms)"
    )


def eight_bit_share(found: Measured) -> float | None:
    """Share of the vision encoder's matrix work that runs in 8 bits; None for others, and where too little is known."""
    vision = found.engines.get(VISION, {})
    layers = vision.get("layers") if vision.get("quantize") else None
    return Layers.model_validate(layers).eight_bit_share if layers else None


def _work(engine: dict[str, Any]) -> dict[str, int]:
    return (engine.get("layers") or {}).get("work") or {}


def notes_of(found: Sequence[Measured]) -> dict[int, str]:
    """A word for the status of some rows, by their place."""
    return {place: NOT_WORTH_IT for place, one in enumerate(found) if slower_than_sibling(one, found)}


def warnings_of(found: Sequence[Measured]) -> list[str]:
    """Lines below the table."""
    lines = [line for one in found if (line := slower_than_sibling(one, found))]
    for one in found:
        share = eight_bit_share(one)
        if share is not None and share < _HALF:
            what = f"only {percent(share)} of its vision encoder's matrix work runs in 8 bits"
            lines.append(f"{name_of(one)}: {what}, as far as TensorRT tells")
    return lines


def precision_used(engine: dict[str, Any]) -> str | None:
    """What an engine really runs in, from its record: its matrix work by type where that tells, else its products.

    What TensorRT does not show is said to be untold, and by which version: it is of no type of its own.
    """
    counts = dict(_work(engine) or engine.get("precision_got") or {})
    whole = sum(counts.values())
    if not whole:
        return None
    hidden = counts.pop(UNKNOWN, 0)
    told = [f"{kind} {percent(amount / whole)}" for kind, amount in sorted(counts.items(), key=lambda item: -item[1])]
    if hidden:
        told.append(f"{percent(hidden / whole)} not told by TensorRT {engine['toolchain']['version']}")
    return ", ".join(told)
