"""Where the files of a work folder are, and which of them make a variant, in the order in which they are made.

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
"""What jobs write to, besides ``logs`` and the two records beside them."""


@dataclass(frozen=True)
class Step:
    """One job: its files, the first of which it can be asked for by, and its log."""

    stage: Stage
    files: tuple[str, ...]
    log: str


@dataclass(frozen=True)
class Id:
    """A graph or an engine by its path in ``onnx/`` or ``engines/store/``, without its suffix: ``r672/decoder_q50``,
    ``b8_r672/vision-encoder_int8``.

    ``axes`` are those that it differs by; ``ending`` is ``_int8`` or ``_fp8``, and of a graph that such start from
    ``_fp32`` (see :attr:`Plan.eight_bit_source`).
    """

    family: FamilySpec
    part: Part
    axes: Mapping[str, int]
    ending: str = ""

    def __str__(self) -> str:
        folder, stem = self.family.shown(self.axes, "folder"), self.family.shown(self.axes, "file")
        return f"{folder}{'/' * bool(folder)}{self.part.name}{'_' * bool(stem)}{stem}{self.ending}"

    def graph(self, ending: str) -> Id:
        """The graph with that ending from which this engine is built."""
        return Id(self.family, self.part, self.part.graph_axes(self.axes), ending)


EIGHT_BIT_ENDINGS = tuple(f"_{form}" for form in EIGHT_BIT)


def id_pattern(
    family: FamilySpec, parts: Iterable[Part], batch: bool, endings: Sequence[str] = EIGHT_BIT_ENDINGS
) -> str:
    """A regular expression of the ids of graphs of ``parts``, with ``batch`` of their engines. Without groups; none
    matches where there is no part."""
    found = []
    for part in parts:
        axes: dict[str, Any] = {
            axis: r"[1-9]\d*" for axis in part.depends_on if axis in family.keys and (batch or axis != BATCH)
        }
        last = f"(?:{'|'.join(endings)})?" if part.eight_bit and endings else ""
        found.append(str(Id(family, part, axes, last)))
    return "|".join(found) or "(?!)"


def parse_id(text: str, family: FamilySpec) -> Id:
    """The inverse of ``str``. Raises :class:`ValueError` for what is no graph's and no engine's id."""
    for part in family.parts.values():
        listed = [axis for axis in family.axes if axis.key in part.depends_on]
        # A graph has no batch; which of the two it is shows in the folder.
        for shown in (listed, [axis for axis in listed if axis.key != BATCH]):
            groups: dict[str, Any] = {axis.key: rf"(?P<{axis.key}>[1-9]\d*)" for axis in shown}
            ending = rf"(?P<ending>(?:{'|'.join((*EIGHT_BIT_ENDINGS, '_fp32'))})?)" if part.eight_bit else ""
            match = re.fullmatch(str(Id(family, part, groups, ending)), text)
            if match:
                found = match.groupdict()
                return Id(family, part, {key: int(found[key]) for key in groups}, found.get("ending", ""))
    raise ValueError(f"{text!r} is no graph and no engine of {family.title}")


def graph_id(part: Part, variant: Variant, ending: str = "") -> str:
    """A graph's path in ``onnx/``, without its suffix: ``r672/decoder_q50``. ``ending`` is that of an 8-bit graph, or
    of the float32 graph that it comes from."""
    return str(_engine(part, variant).graph(ending if part.eight_bit else ""))


def engine_id(part: Part, variant: Variant) -> str:
    """An engine's path in ``engines/store/``, without its suffix: ``b8_r672/decoder_q50``."""
    return str(_engine(part, variant))


def _engine(part: Part, variant: Variant) -> Id:
    axes: dict[str, int] = {axis: value for axis, value in variant.axes.items() if axis in part.depends_on}
    return Id(variant.family, part, axes, variant.suffix if part.eight_bit else "")


def graph_files(plan: Plan, engine: str) -> dict[str, str | list[str]]:
    """What the engine with that id is built from: its ``graph``, the ``data`` beside that, and scales that are not in
    it (``calibration``); the latter two where there are any."""
    asked = parse_id(engine, plan.family)
    data = f"onnx/{asked.graph(plan.data_ending(asked.ending))}.onnx.data"
    measured = f"calibration/r{asked.axes.get(RESOLUTION)}_{plan.algorithm}"
    return {
        "graph": f"onnx/{asked.graph(plan.graph_ending(asked.ending))}.onnx",
        "data": [data] if asked.part.external_data else [],
        "calibration": [f"{measured}.cache", f"{measured}.json"] if asked.ending and plan.calibrates else [],
    }


def reference_file(resolution: int, accuracy: bool = False) -> str:
    """What float32 PyTorch said at a resolution, of the verification images or of the data set."""
    return f"reference/r{resolution}{'_accuracy' if accuracy else ''}.safetensors"


def chain(plan: Plan, variant: Variant) -> Iterator[Step]:
    """The steps that make ``variant``, verify it and measure it, in their order."""
    yield Step("lock", ("checkpoint.lock",), "logs/lock_checkpoint.log")
    for asset in plan.family.assets:
        yield Step("export", (f"onnx/{asset}",), f"logs/copy_{Path(asset).stem}.log")
    for part in plan.family.parts.values():
        yield from _graphs(plan, part, variant)
    for accuracy in (False, True) if plan.has_data_set else (False,):
        reference = reference_file(variant[RESOLUTION], accuracy)
        yield Step("reference", (reference,), f"logs/{reference.removesuffix('.safetensors')}.log")
    for part in plan.family.parts.values():
        engine = engine_id(part, variant)
        files = _with_record(f"engines/store/{engine}")
        yield Step("build", files, f"logs/build/{engine}.log")
    for name in plan.family.parts:
        yield Step("link", _with_record(f"engines/{variant.name}/{name}"), f"logs/link/{variant.name}/{name}.log")
    for asset in plan.family.assets:
        yield _logged("link", f"engines/{variant.name}/{asset}", "link", f"{variant.name}/{Path(asset).stem}")
    yield _logged("configure", f"engines/{variant.name}/config.json", "configure", variant.name)
    yield _logged("verify", f"engines/{variant.name}/verify.json", "verify", variant.name)
    yield _logged("bench", f"bench/{variant.name}.json", "bench", variant.name)
    at = f"r{variant[RESOLUTION]}"
    yield _logged("baseline", f"bench/baselines/{at}.json", "baselines", at)
    yield _logged("accuracy", f"accuracy/{variant.name}.json", "accuracy", variant.name)


def _graphs(plan: Plan, part: Part, variant: Variant) -> Iterator[Step]:
    """The export of a part and, in 8 bits, what comes between it and the build."""
    suffix = variant.suffix if part.eight_bit else ""
    yield _export(part, graph_id(part, variant, plan.data_ending(suffix)))
    if not suffix:
        return
    measured = f"calibration/r{variant[RESOLUTION]}" + (f"_{plan.algorithm}" if plan.calibrates else "")
    files = (f"{measured}.cache", f"{measured}.json") if plan.calibrates else (f"{measured}.json",)
    yield Step("calibrate", files, f"logs/{measured}.log")
    if not plan.calibrates:
        graph = f"onnx/{graph_id(part, variant, suffix)}.onnx"
        yield _logged("quantize", graph, "quantize", f"r{variant[RESOLUTION]}{suffix}")


def _export(part: Part, graph: str) -> Step:
    data = (f"onnx/{graph}.onnx.data",) if part.external_data else ()
    return Step("export", (f"onnx/{graph}.onnx", *data), f"logs/export/{graph}.log")


def _with_record(engine: str) -> tuple[str, str]:
    return f"{engine}.engine", f"{engine}.engine.json"


def _logged(stage: Stage, file: str, kind: str, name: str) -> Step:
    return Step(stage, (file,), f"logs/{kind}/{name}.log")
