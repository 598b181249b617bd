"""Name the files of a work folder, and the steps that make a variant, in their order.

The rules write the same paths as literals; a test compares the two. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sam3_runtime.families.base import BATCH, EIGHT_BIT, RESOLUTION, FamilySpec, Part
from sam3_runtime.plan.planning import Plan
from sam3_runtime.plan.variants import Variant

Stage = Literal[
    "lock", "export", "calibrate", "quantize", "reference", "build", "link", "configure", "verify", "bench", "baseline",
    "accuracy",
]  # fmt: skip
FOLDERS = ("onnx", "reference", "calibration", "engines", "bench", "accuracy")
"""The folders that jobs write to, besides ``logs``."""


@dataclass(frozen=True)
class Step:
    """One job: its output files, the first of which is its target, and its log."""

    stage: Stage
    files: tuple[str, ...]
    log: str


@dataclass(frozen=True)
class Id:
    """A graph's path in ``onnx/`` or an engine's in ``engines/store/``, without its suffix.

    Such as ``r672/decoder_q50`` and ``b8_r672/vision-encoder_int8``.

    ``axes`` are those that it differs by; ``ending`` is ``_int8`` or ``_fp8``, or ``_fp32`` for a float32 graph that
    8-bit graphs start from (see :attr:`Plan.eight_bit_source`).
    """

    family: FamilySpec
    part: Part
    axes: Mapping[str, int]
    ending: str = ""

    def __str__(self) -> str:
        folder, stem = self.family.shown(self.axes, "folder"), self.family.shown(self.axes, "file")
        return f"{folder}{'/' * bool(folder)}{self.part.name}{'_' * bool(stem)}{stem}{self.ending}"

    def graph(self, ending: str) -> Id:
        """Return the id of the graph, with that ending, from which this engine is built."""
        return Id(self.family, self.part, self.part.graph_axes(self.axes), ending)


EIGHT_BIT_ENDINGS = tuple(f"_{form}" for form in EIGHT_BIT)


def id_pattern(
    family: FamilySpec, parts: Iterable[Part], batch: bool, endings: Sequence[str] = EIGHT_BIT_ENDINGS
) -> str:
    """Return a regular expression, without groups, of the ids of graphs of ``parts``; with ``batch``, of engines.

    It matches nothing where there is no part.
    """
    found = []
    for part in parts:
        axes: dict[str, Any] = {
            axis: r"[1-9]\d*" for axis in part.depends_on if axis in family.keys and (batch or axis != BATCH)
        }
        last = f"(?:{'|'.join(endings)})?" if part.eight_bit and endings else ""
        found.append(str(Id(family, part, axes, last)))
    return "|".join(found) or "(?!)"


def parse_id(text: str, family: FamilySpec) -> Id:
    """Return the graph or engine with that id; raises :class:`ValueError` for any other text."""
    for part in family.parts.values():
        listed = [axis for axis in family.axes if axis.key in part.depends_on]
        # A graph's id has no batch.
        for shown in (listed, [axis for axis in listed if axis.key != BATCH]):
            groups: dict[str, Any] = {axis.key: rf"(?P<{axis.key}>[1-9]\d*)" for axis in shown}
            ending = rf"(?P<ending>(?:{'|'.join((*EIGHT_BIT_ENDINGS, '_fp32'))})?)" if part.eight_bit else ""
            match = re.fullmatch(str(Id(family, part, groups, ending)), text)
            if match:
                found = match.groupdict()
                return Id(family, part, {key: int(found[key]) for key in groups}, found.get("ending", ""))
    raise ValueError(f"{text!r} is no graph and no engine of {family.title}")


def graph_id(part: Part, variant: Variant, ending: str = "") -> str:
    """Return a graph's path in ``onnx/``, without its suffix: ``r672/decoder_q50``.

    ``ending`` is that of an 8-bit graph, or of the float32 graph that it comes from.
    """
    return str(_engine(part, variant).graph(ending if part.eight_bit else ""))


def engine_id(part: Part, variant: Variant) -> str:
    """Return an engine's path in ``engines/store/``, without its suffix: ``b8_r672/decoder_q50``."""
    return str(_engine(part, variant))


def _engine(part: Part, variant: Variant) -> Id:
    axes: dict[str, int] = {axis: value for axis, value in variant.axes.items() if axis in part.depends_on}
    return Id(variant.family, part, axes, variant.suffix if part.eight_bit else "")


def graph_files(plan: Plan, engine: str) -> dict[str, str | list[str]]:
    """Return what the engine with that id is built from.

    The keys are ``graph``; ``data``, the external data beside a graph; and ``calibration``, scales outside of the
    graph. The latter two are empty where there are none.
    """
    built = parse_id(engine, plan.family)
    data = f"onnx/{built.graph(plan.data_ending(built.ending))}.onnx.data"
    return {
        "graph": f"onnx/{built.graph(plan.graph_ending(built.ending))}.onnx",
        "data": [data] if built.part.external_data else [],
        "calibration": _scales(plan, built.axes[RESOLUTION]) if built.ending and plan.calibrates else [],
    }


def _scales(plan: Plan, resolution: int) -> list[str]:
    """Return the files of measured scales."""
    if not plan.calibrates:
        return [f"calibration/r{resolution}.json"]
    return [f"calibration/r{resolution}_{plan.algorithm}.{kind}" for kind in ("cache", "json")]


def reference_file(resolution: int, accuracy: bool = False) -> str:
    """Return the reference for a resolution: float32 PyTorch's outputs, or its accuracy on the data set."""
    return f"reference/r{resolution}{'_accuracy' if accuracy else ''}.safetensors"


def steps(plan: Plan) -> list[Step]:
    """Return the steps of all listed variants, each once."""
    return list(dict.fromkeys(step for name in plan.names for step in chain(plan, plan.variant(name))))


def chain(plan: Plan, variant: Variant) -> Iterator[Step]:
    """Yield the steps that make ``variant``, verify it and measure it, in their order."""
    family, name, resolution = plan.family, variant.name, variant[RESOLUTION]
    yield Step("lock", ("checkpoint.lock",), "logs/lock_checkpoint.log")
    for asset in family.assets:
        yield Step("export", (f"onnx/{asset}",), f"logs/copy_{Path(asset).stem}.log")
    for part in family.parts.values():
        yield from _graphs(plan, part, variant)
    for accuracy in (False, True) if plan.has_data_set else (False,):
        reference = reference_file(resolution, accuracy)
        yield Step("reference", (reference,), f"logs/{Path(reference).with_suffix('.log')}")
    for part in family.parts.values():
        engine = engine_id(part, variant)
        yield Step("build", _with_record(f"engines/store/{engine}"), f"logs/build/{engine}.log")
    for part_name in family.parts:
        yield Step("link", _with_record(f"engines/{name}/{part_name}"), f"logs/link/{name}/{part_name}.log")
    configured = (f"engines/{name}/{file}" for file in ("config.json", *family.assets))
    yield Step("configure", tuple(configured), f"logs/configure/{name}.log")
    yield Step("verify", (f"engines/{name}/verify.json",), f"logs/verify/{name}.log")
    yield Step("bench", (f"bench/{name}.json",), f"logs/bench/{name}.log")
    yield Step("baseline", (f"bench/baselines/r{resolution}.json",), f"logs/baselines/r{resolution}.log")
    yield Step("accuracy", (f"accuracy/{name}.json",), f"logs/accuracy/{name}.log")


def _graphs(plan: Plan, part: Part, variant: Variant) -> Iterator[Step]:
    """Yield the export of a part and, in 8 bits, the steps between it and the build."""
    suffix = variant.suffix if part.eight_bit else ""
    graph = graph_id(part, variant, plan.data_ending(suffix))
    files = [f"onnx/{graph}.onnx"] + [f"onnx/{graph}.onnx.data"] * part.external_data
    yield Step("export", tuple(files), f"logs/export/{graph}.log")
    if suffix:
        scales = _scales(plan, variant[RESOLUTION])
        yield Step("calibrate", tuple(scales), f"logs/{Path(scales[0]).with_suffix('.log')}")
    if suffix and not plan.calibrates:
        files = [f"onnx/{graph_id(part, variant, suffix)}.onnx"]
        yield Step("quantize", tuple(files), f"logs/quantize/r{variant[RESOLUTION]}{suffix}.log")


def _with_record(engine: str) -> tuple[str, str]:
    return f"{engine}.engine", f"{engine}.engine.json"
