"""What one variant is beside another in the same table: whether 8 bits were worth it, and how much of it they are.

Pure: works on what tables hold, reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam3_runtime.core.wording import counted
from sam3_runtime.families import main_part
from sam3_runtime.families.base import EIGHT_BIT
from sam3_runtime.records.measurements import Measured
from sam3_runtime.records.records import UNKNOWN, Layers
from sam3_runtime.report.text import percent

NOT_WORTH_IT = "not worth it"
_HALF = 0.5


def method_of(found: Measured) -> str | None:
    """How the engine in 8 bits got its scales, ``qdq`` or ``calibrator``; None for a variant without 8 bits."""
    engine = main_engine(found)
    if not engine.get("quantize"):
        return None
    # Scales that are written into a graph make it a graph of its own, named after its type.
    return "qdq" if str(engine["graph"]).endswith(engine["quantize"]) else "calibrator"


def main_engine(found: Measured) -> dict[str, Any]:
    """What is known of the part that may be in 8 bits; nothing where there is no such engine."""
    part = main_part(found.engines)
    return found.engines.get(part.name, {}) if part else {}


def name_of(found: Measured) -> str:
    """The variant's name, with the method where that is not the usual one."""
    method = method_of(found)
    return f"{found.variant} ({method})" if method == "calibrator" else found.variant


def main_ms(found: Measured) -> tuple[int, float] | None:
    """Images at once, and milliseconds an image, of that part at the most images that it was measured with.

    Alone where it was measured alone, else as a stage of the rounds with the most cameras.
    """
    main = main_part(found.bench.engines) if found.bench else None
    if found.bench is None or main is None:
        return None
    alone = [part for part in found.bench.parts if part.part == main.name]
    if alone:
        most = max(alone, key=lambda part: part.images)
        return most.images, most.per_image
    rounds = max(found.bench.cameras, key=lambda camera: camera.cameras)
    return rounds.cameras, rounds.stages[main.stage].median / rounds.cameras


def sibling_of(found: Measured, others: Sequence[Measured]) -> Measured | None:
    """The variant of the same axes without 8 bits, where it is in the table."""
    plain, _, form = found.variant.rpartition("_")
    return next((one for one in others if one.variant == plain), None) if form in EIGHT_BIT else None


def slower_than_sibling(found: Measured, others: Sequence[Measured]) -> str | None:
    """Says so where what an 8-bit variant has in 8 bits takes longer than in its floating-point sibling."""
    sibling = sibling_of(found, others)
    ours, theirs = main_ms(found), main_ms(sibling) if sibling else None
    if sibling is None or ours is None or theirs is None or ours[0] != theirs[0] or ours[1] <= theirs[1]:
        return None
    more = (ours[1] / theirs[1] - 1) * 100
    return (
        f"{name_of(found)} is **{NOT_WORTH_IT}** here: its {_spoken(found)} takes {ours[1]:.2f} ms an image at "
        f"{counted(ours[0], 'image')}, {more:.1f} % more than {sibling.variant} ({theirs[1]:.2f} ms)"
    )


def eight_bit_share(found: Measured) -> float | None:
    """Share of its matrix work that runs in 8 bits; None for variants without, and where too little is known."""
    engine = main_engine(found)
    layers = engine.get("layers") if engine.get("quantize") else None
    return Layers.model_validate(layers).eight_bit_share if layers else None


def _in_float(found: Measured) -> str | None:
    """Says so where a backend computes in float what has scales of 8 bits, as ONNX Runtime does with convolutions."""
    engine = main_engine(found)
    products = engine.get("precision_got") or {}
    if not engine.get("quantize") or engine.get("layers") or not products or engine["quantize"] in products:
        return None
    return (
        f"{name_of(found)} rounds to {engine['quantize']} and **computes in float**: {engine['backend']} runs none of "
        "its products in 8 bits, so that it says what 8 bits cost in accuracy, and nothing about their speed"
    )


def _spoken(found: Measured) -> str:
    """The part that may be in 8 bits, in words."""
    part = main_part(found.engines)
    return part.name.replace("-", " ") if part else "engine"


def _work(engine: dict[str, Any]) -> dict[str, int]:
    return (engine.get("layers") or {}).get("work") or {}


def notes_of(found: Sequence[Measured]) -> dict[int, str]:
    """A word for the status of some rows, by their place."""
    return {place: NOT_WORTH_IT for place, one in enumerate(found) if slower_than_sibling(one, found)}


def warnings_of(found: Sequence[Measured]) -> list[str]:
    """Lines below the table."""
    lines = [line for one in found if (line := slower_than_sibling(one, found))]
    lines += [line for one in found if (line := _in_float(one))]
    for one in found:
        share = eight_bit_share(one)
        if share is not None and share < _HALF:
            what = f"only {percent(share)} of its {_spoken(one)}'s matrix work runs in 8 bits"
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
