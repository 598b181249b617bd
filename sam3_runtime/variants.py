"""Reads ``variants.yaml``: which engine variants to build, from what, and how.

Owns the variants' names (``b8_q50_r672_int8``) in both directions, matrices, and what a model or backend cannot do. The
schema is in ``settings.py``, places in the file in ``placed_yaml.py``. Pure: it reads a checkpoint's ``config.json``
where there is one, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sam3_runtime.contract import ModelDims
from sam3_runtime.engines.registry import BACKENDS, BUILT, BackendSpec
from sam3_runtime.errors import VariantsError
from sam3_runtime.gpus import FIRST_WITH_FP8, GENERATIONS, as_number, names_of, without_fp8
from sam3_runtime.placed_yaml import Document, Places, nearest_place
from sam3_runtime.settings import Quantize, VariantsFile

NAME = re.compile(r"b(?P<batch>[1-9]\d*)_q(?P<queries>[1-9]\d*)_r(?P<resolution>[1-9]\d*)(?:_(?P<quantize>int8|fp8))?")
RANDOM_CHECKPOINT = "random"
DOCUMENT = Document(VariantsFile, VariantsError, "variants: [{resolution: 1008}]")


@dataclass(frozen=True, order=True)
class Variant:
    """One choice of batch, queries, resolution (pixels) and 8-bit form of the vision encoder."""

    batch: int
    queries: int
    resolution: int
    quantize: Quantize = "none"

    @property
    def suffix(self) -> str:
        """``_int8``, ``_fp8`` or nothing: what the vision encoder's file name and the variant's end with."""
        return "" if self.quantize == "none" else f"_{self.quantize}"

    @property
    def name(self) -> str:
        return f"b{self.batch}_q{self.queries}_r{self.resolution}{self.suffix}"

    def numbers(self) -> tuple[int, int, int]:
        return self.batch, self.queries, self.resolution

    @property
    def yaml_line(self) -> str:
        """The line that adds this variant to ``variants.yaml``."""
        tail = "" if self.quantize == "none" else f", quantize: {self.quantize}"
        return f"  - {{batch: {self.batch}, queries: {self.queries}, resolution: {self.resolution}{tail}}}"

    @classmethod
    def from_name(cls, name: str) -> Variant:
        """The inverse of :attr:`name`; :class:`VariantsError` for anything else."""
        match = NAME.fullmatch(name)
        if match is None:
            raise VariantsError(
                f"{name!r} is no variant's name",
                "names look like b8_q50_r672 or b8_q50_r672_int8: batch, queries, resolution",
            )
        numbers = {key: int(match[key]) for key in ("batch", "queries", "resolution")}
        return cls(**numbers, quantize=match["quantize"] or "none")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Variants:
    """A checked ``variants.yaml``: its settings, the variants in the order listed, and the model's dimensions."""

    settings: VariantsFile
    variants: dict[str, Variant]
    dims: ModelDims
    file: str

    def get(self, name: str) -> Variant:
        """The listed variant of that name; otherwise a message with the nearest one and the line to add."""
        if name in self.variants:
            return self.variants[name]
        raise self.refuse(name)

    def refuse(self, name: str) -> VariantsError:
        """The message for a target that is a variant's bare name, or that of one which is not listed or malformed."""
        if name in self.variants:
            return VariantsError(
                f"{name} is a variant, not a file", f"to build and verify it: engines/{name}/verify.json"
            )
        partial = re.fullmatch(r"b([1-9]\d*)(?:_q([1-9]\d*))?(_int8|_fp8)?", name)
        if partial:
            queries = partial[2] or str(self.settings.defaults.queries)
            full = f"b{partial[1]}_q{queries}_r{self.dims.image_size}{partial[3] or ''}"
            return VariantsError(f"{name!r} has no resolution", f"the model's own is {self.dims.image_size}: {full}")
        try:
            asked = Variant.from_name(name)
            check(asked, self.dims, f"the variant {name}")
        except VariantsError as error:
            return error
        nearest = min(self.variants.values(), key=lambda known: _distance(known, asked))
        return VariantsError(
            f"the variant {name} is not listed in {self.file}",
            f"the nearest listed one is {nearest.name}; to build {name}, add under `variants:`\n{asked.yaml_line}",
        )


def _distance(one: Variant, other: Variant) -> float:
    ratio = [max(a, b) / min(a, b) for a, b in zip(one.numbers(), other.numbers(), strict=True)]
    return sum(ratio) + (one.quantize != other.quantize) * 0.5


def check(variant: Variant, dims: ModelDims, place: str) -> None:
    """Refuse what the model cannot do: a resolution off its patches, more queries than it has."""
    if variant.resolution % dims.patch:
        below = variant.resolution // dims.patch * dims.patch
        near = [str(size) for size in (below, below + dims.patch) if size > 0]
        raise VariantsError(
            f"{place}: resolution {variant.resolution} is not a multiple of the patch size {dims.patch}",
            f"the nearest multiples of {dims.patch} are {' and '.join(near)}",
        )
    if variant.queries > dims.queries:
        raise VariantsError(
            f"{place}: queries {variant.queries} is more than the model's {dims.queries}",
            f"use {dims.queries} or fewer",
        )


def _as_list(value: Any, default: Any) -> list[Any]:
    if value is None:
        return [default]
    return value if isinstance(value, list) else [value]


def _expand(settings: VariantsFile, dims: ModelDims, places: Places, file: str) -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    origin: dict[str, int] = {}
    defaults = settings.defaults
    for index, matrix in enumerate(settings.variants):
        line = nearest_place(places, ("variants", index))
        axes = [
            _as_list(matrix.batch, defaults.batch),
            _as_list(matrix.queries, defaults.queries),
            _as_list(matrix.resolution, defaults.resolution or dims.image_size),
            _as_list(matrix.quantize, defaults.quantize),
        ]
        if not all(axes):
            raise VariantsError(
                f"{file}:{line}: variants[{index}] lists no value for one of its keys", "list at least one"
            )
        for batch, queries, resolution, quantize in product(*axes):
            variant = Variant(batch, queries, resolution, quantize)
            check(variant, dims, f"{file}:{_line_of(places, index, line)}: variants[{index}]")
            if variant.name in found:
                raise VariantsError(
                    f"{file}:{line}: variants[{index}] says {variant.name} again (first: line {origin[variant.name]})",
                    "each variant is listed once: take the value out of one of the two",
                )
            found[variant.name] = variant
            origin[variant.name] = line
    return found


def _line_of(places: Places, index: int, default: int) -> int:
    """The line of the value that :func:`check` refuses is that of its key, where the matrix spells it out."""
    return places.get(("variants", index, "resolution"), places.get(("variants", index, "queries"), default))


def _check_backend(settings: VariantsFile, variants: Mapping[str, Variant], file: str, places: Places) -> None:
    precisions = {settings.precision} if isinstance(settings.precision, str) else set(settings.precision.values())
    line = nearest_place(places, ("precision",))
    backend = BACKENDS.get(settings.backend)  # none: `auto`
    refused = (precisions - {"auto"}).difference(backend.precisions if backend else precisions)
    if backend and refused:
        able = _backends(lambda one: refused <= set(one.precisions))
        raise VariantsError(
            f"{file}:{line}: precision {', '.join(sorted(refused))} is not for the backend {backend.name}",
            f"use {' or '.join(backend.precisions)} or auto there; {', '.join(sorted(refused))} is for {able}",
        )
    fp8 = [name for name, variant in variants.items() if variant.quantize == "fp8"]
    if fp8 and not (backend and backend.builds_fp8()):
        raise VariantsError(
            f"{file}: {fp8[0]} asks for fp8, which the backend {settings.backend} does not build",
            f"fp8 needs {_backends(lambda one: one.builds_fp8())} and a GPU from Ada on; int8 works here",
        )
    if backend and backend.compiles_for_generations:
        _check_generations(settings, fp8, file, places)
    if settings.calibration.method == "calibrator":
        _check_calibrator(settings, fp8, file, places)


def _backends(able: Callable[[BackendSpec], bool]) -> str:
    """Those for which ``able`` is true, as they are written in ``variants.yaml``."""
    return " or ".join(f"`backend: {name}`" for name in BUILT if able(BACKENDS[name]))


def _check_calibrator(settings: VariantsFile, fp8: list[str], file: str, places: Places) -> None:
    """Refuse what TensorRT's own calibrators cannot do. Which release has them is for the plan to know."""
    where = f"{file}:{nearest_place(places, ('calibration', 'method'))}: calibration.method: calibrator"
    if settings.backend not in BACKENDS or not BACKENDS[settings.backend].calibrates:
        raise VariantsError(
            f"{where} needs {_backends(lambda one: one.calibrates)} (10 or older), and this folder's backend is "
            f"{settings.backend}",
            "use `method: qdq`, which every backend runs",
        )
    if fp8:
        raise VariantsError(
            f"{where} measures int8 alone, and {fp8[0]} asks for fp8", "use `method: qdq`, which measures for both"
        )
    if settings.calibration.exclude:
        raise VariantsError(
            f"{where} takes every layer, and calibration.exclude names {settings.calibration.exclude[0]!r}",
            "take `exclude` out, or use `method: qdq`",
        )


def _check_generations(settings: VariantsFile, fp8: list[str], file: str, places: Places) -> None:
    """Refuse FP8 for generations that cannot compute in it."""
    too_old = without_fp8(settings.build.gpus)
    if fp8 and too_old:
        where = f"{file}:{nearest_place(places, ('build', 'rtx', 'gpus'))}: build.rtx.gpus"
        able = names_of(one for one in GENERATIONS if as_number(one) >= as_number(FIRST_WITH_FP8))
        raise VariantsError(
            f"{where}: {fp8[0]} asks for fp8, which {names_of(too_old)} cannot compute in",
            f"fp8 is for {able}: leave the others out, or use int8, which every generation has",
        )


def dims_of_checkpoint(checkpoint: str, base: str = ".") -> ModelDims:
    """Dimensions for planning: from a local folder's ``config.json``, else those of facebook/sam3.

    ``base`` is the folder that a relative one is relative to.
    """
    config = Path(base) / Path(checkpoint).expanduser() / "config.json"
    if checkpoint == RANDOM_CHECKPOINT or not config.is_file():
        return ModelDims()
    try:
        return ModelDims.from_config(json.loads(config.read_text()))
    except (ValueError, AttributeError, TypeError) as error:
        raise VariantsError(
            f"{config} is not a SAM3 configuration: {error}", "point model.checkpoint at a SAM3 checkpoint"
        ) from None


def parse(text: str, file: str = "variants.yaml", dims: ModelDims | None = None, base: str = ".") -> Variants:
    """Check the content of a ``variants.yaml``; ``dims`` replaces what the checkpoint itself would say.

    ``base`` is the folder of the file, which a local checkpoint is relative to. Raises :class:`VariantsError`: the
    value, its place (file, line, key) and the fix.
    """
    settings, places = DOCUMENT.parse(text, file)
    dims = dims or dims_of_checkpoint(settings.model.checkpoint, base)
    variants = _expand(settings, dims, places, file)
    _check_backend(settings, variants, file, places)
    return Variants(settings, variants, dims, file)


def read(path: Path, shown: str | None = None) -> str:
    """The text of a ``variants.yaml``; :class:`VariantsError`, which calls it ``shown``, when it cannot be read."""
    return DOCUMENT.read(path, shown, "start from the project's own variants.yaml")
