"""Where the files of a work folder are, and which of them make a variant, in the order in which they are made.

The rules write the same paths as literals; a test compares the two. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sam3_runtime.contract import PARTS, Part
from sam3_runtime.planning import Plan
from sam3_runtime.variants import Variant

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


def graph_id(part: Part, variant: Variant, ending: str = "") -> str:
    """A graph's path in ``onnx/``, without its suffix: ``r672/decoder_q50``. ``ending`` is that of an 8-bit graph, or
    of the float32 graph that it comes from."""
    folder = f"r{variant.resolution}/" if "resolution" in part.depends_on else ""
    return f"{folder}{_stem(part, variant)}{ending if 'quantize' in part.depends_on else ''}"


def engine_id(part: Part, variant: Variant) -> str:
    """An engine's path in ``engines/store/``, without its suffix: ``b8_r672/decoder_q50``."""
    folder = f"b{variant.batch}" + (f"_r{variant.resolution}" if "resolution" in part.depends_on else "")
    return f"{folder}/{_stem(part, variant)}{variant.suffix if 'quantize' in part.depends_on else ''}"


def _stem(part: Part, variant: Variant) -> str:
    return part.name + (f"_q{variant.queries}" if "queries" in part.depends_on else "")


def reference_file(resolution: int, accuracy: bool = False) -> str:
    """What float32 PyTorch said at a resolution, of the verification images or of the data set."""
    return f"reference/r{resolution}{'_accuracy' if accuracy else ''}.safetensors"


def chain(plan: Plan, variant: Variant) -> Iterator[Step]:
    """The steps that make ``variant``, verify it and measure it, in their order."""
    yield Step("lock", ("checkpoint.lock",), "logs/lock_checkpoint.log")
    yield Step("export", ("onnx/tokenizer.json",), "logs/copy_tokenizer.log")
    for part in PARTS.values():
        yield from _graphs(plan, part, variant)
    for accuracy in (False, True) if plan.has_data_set else (False,):
        reference = reference_file(variant.resolution, accuracy)
        yield Step("reference", (reference,), f"logs/{reference.removesuffix('.safetensors')}.log")
    for part in PARTS.values():
        engine = engine_id(part, variant)
        files = _with_record(f"engines/store/{engine}")
        yield Step("build", files, f"logs/build/{engine}.log")
    for name in PARTS:
        yield Step("link", _with_record(f"engines/{variant.name}/{name}"), f"logs/link/{variant.name}/{name}.log")
    yield _logged("link", f"engines/{variant.name}/tokenizer.json", "link", f"{variant.name}/tokenizer")
    yield _logged("configure", f"engines/{variant.name}/config.json", "configure", variant.name)
    yield _logged("verify", f"engines/{variant.name}/verify.json", "verify", variant.name)
    yield _logged("bench", f"bench/{variant.name}.json", "bench", variant.name)
    yield _logged("baseline", f"bench/baselines/r{variant.resolution}.json", "baselines", f"r{variant.resolution}")
    yield _logged("accuracy", f"accuracy/{variant.name}.json", "accuracy", variant.name)


def _graphs(plan: Plan, part: Part, variant: Variant) -> Iterator[Step]:
    """The export of a part and, of the vision encoder in 8 bits, what comes between it and the build."""
    suffix = variant.suffix if "quantize" in part.depends_on else ""
    yield _export(part, graph_id(part, variant, plan.vision_data(suffix)))
    if not suffix:
        return
    measured = f"calibration/r{variant.resolution}" + (f"_{plan.algorithm}" if plan.calibrates else "")
    files = (f"{measured}.cache", f"{measured}.json") if plan.calibrates else (f"{measured}.json",)
    yield Step("calibrate", files, f"logs/{measured}.log")
    if not plan.calibrates:
        graph = f"onnx/{graph_id(part, variant, suffix)}.onnx"
        yield _logged("quantize", graph, "quantize", f"r{variant.resolution}{suffix}")


def _export(part: Part, graph: str) -> Step:
    data = (f"onnx/{graph}.onnx.data",) if part.external_data else ()
    return Step("export", (f"onnx/{graph}.onnx", *data), f"logs/export/{graph}.log")


def _with_record(engine: str) -> tuple[str, str]:
    return f"{engine}.engine", f"{engine}.engine.json"


def _logged(stage: Stage, file: str, kind: str, name: str) -> Step:
    return Step(stage, (file,), f"logs/{kind}/{name}.log")
