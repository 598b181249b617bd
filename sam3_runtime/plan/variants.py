"""Reads ``variants.yaml``: which engine variants to build, from what, and how.

Owns the variants' names (``b8_q50_r672_int8``) in both directions, matrices, and what a model or backend cannot do. The
schema is in ``settings.py``, places in the file in ``placed_yaml.py``. Pure: it reads a checkpoint's ``config.json``
where there is one, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import VariantsError
from sam3_runtime.core.gpus import FIRST_WITH_FP8, GENERATIONS, as_number, names_of, without_fp8
from sam3_runtime.core.placed_yaml import Document, Places, nearest_place
from sam3_runtime.engines.registry import BACKENDS, BUILT, BackendSpec
from sam3_runtime.families import DEFAULT, FAMILIES, claimed_by
from sam3_runtime.families.base import BATCH, EIGHT_BIT, FamilySpec
from sam3_runtime.plan.sections import Quantize
from sam3_runtime.plan.settings import VariantsFile, variants_file

RANDOM_CHECKPOINT = "random"
DOCUMENT = Document(VariantsFile, VariantsError, "variants: [{resolution: 1008}]")


@dataclass(frozen=True, order=True)
class Variant:
    """One choice of a value for each axis of its family (``numbers``, in their order), and of an 8-bit form."""

    numbers: tuple[int, ...]
    quantize: Quantize = "none"
    family: FamilySpec = field(default=FAMILIES[DEFAULT], compare=False, repr=False)

    def __getitem__(self, axis: str) -> int:
        return self.numbers[self.family.keys.index(axis)]

    @property
    def axes(self) -> dict[str, int]:
        return dict(zip(self.family.keys, self.numbers, strict=True))

    @property
    def batch(self) -> int:
        """Images at once, at most; every family has that axis."""
        return self[BATCH]

    @property
    def suffix(self) -> str:
        """``_int8``, ``_fp8`` or nothing: what the file name of a part in 8 bits and the variant's end with."""
        return "" if self.quantize == "none" else f"_{self.quantize}"

    @property
    def name(self) -> str:
        return self.family.shown(self.axes) + self.suffix

    def changed(self, **axes: int) -> Variant:
        """The same with other values of some axes."""
        return replace(self, numbers=tuple((self.axes | axes).values()))

    @property
    def yaml_line(self) -> str:
        """The line that adds this variant to ``variants.yaml``."""
        listed = {**self.axes, **({} if self.quantize == "none" else {"quantize": self.quantize})}
        return f"  - {{{', '.join(f'{key}: {value}' for key, value in listed.items())}}}"

    @classmethod
    def from_name(cls, name: str, family: FamilySpec = FAMILIES[DEFAULT]) -> Variant:
        """The inverse of :attr:`name`; :class:`VariantsError` for anything else."""
        match = family.name_pattern.fullmatch(name)
        if match is None:
            example = family.shown({axis.key: _EXAMPLE.get(axis.key, axis.default) for axis in family.axes})
            raise VariantsError(
                f"{name!r} is no variant's name",
                f"names look like {example} or {example}_int8: {', '.join(family.keys)}",
            )
        return cls(tuple(int(match[key]) for key in family.keys), match["quantize"] or "none", family)  # type: ignore[arg-type]


_EXAMPLE = {"resolution": 672}


@dataclass(frozen=True)
class Variants:
    """A checked ``variants.yaml``: its settings, the variants in the order listed, and the model's dimensions."""

    settings: VariantsFile
    variants: dict[str, Variant]
    dims: Any
    file: str
    family: FamilySpec = FAMILIES[DEFAULT]

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
        partial = self._with_own_values(name)
        if partial:
            left_out, own, full = partial
            return VariantsError(f"{name!r} has no {left_out}", f"the model's own is {own}: {full}")
        try:
            asked = Variant.from_name(name, self.family)
            check(asked, self.dims, f"the variant {name}")
        except VariantsError as error:
            return error
        nearest = min(self.variants.values(), key=lambda known: _distance(known, asked))
        return VariantsError(
            f"the variant {name} is not listed in {self.file}",
            f"the nearest listed one is {nearest.name}; to build {name}, add under `variants:`\n{asked.yaml_line}",
        )

    def _with_own_values(self, name: str) -> tuple[str, int, str] | None:
        """For a name that lacks the axes whose value is the checkpoint's own: the first of them, its value, and the
        whole name."""
        own = self.family.own_values(self.dims)
        shown = self.family.shown({axis.key: "" for axis in self.family.axes if axis.key not in own}).split("_")
        optional = "".join(rf"(?:_{letter}([1-9]\d*))?" for letter in shown[1:])
        match = re.fullmatch(rf"{shown[0]}([1-9]\d*){optional}((?:_(?:{'|'.join(EIGHT_BIT)}))?)", name)
        if match is None or not own:
            return None
        given = [axis.key for axis in self.family.axes if axis.key not in own]
        values = {
            key: value or getattr(self.settings.defaults, key)
            for key, value in zip(given, match.groups()[:-1], strict=True)
        }
        first = next(iter(own))
        return first, own[first], self.family.shown({**values, **own}) + match.groups()[-1]


def _distance(one: Variant, other: Variant) -> float:
    ratio = [max(a, b) / min(a, b) for a, b in zip(one.numbers, other.numbers, strict=True)]
    return sum(ratio) + (one.quantize != other.quantize) * 0.5


def check(variant: Variant, dims: Any, place: str) -> None:
    """:class:`VariantsError` for what the model cannot do."""
    refusal = variant.family.refuse(dims, variant.axes)
    if refusal:
        raise VariantsError(f"{place}: {refusal[0]}", refusal[1])


def _as_list(value: Any, default: Any) -> list[Any]:
    if value is None:
        return [default]
    return value if isinstance(value, list) else [value]


def _expand(settings: VariantsFile, family: FamilySpec, dims: Any, places: Places, file: str) -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    origin: dict[str, int] = {}
    defaults = settings.defaults
    own = family.own_values(dims)
    for index, matrix in enumerate(settings.variants):
        line = nearest_place(places, ("variants", index))
        axes = [_as_list(getattr(matrix, key), getattr(defaults, key) or own.get(key)) for key in family.keys]
        forms = _as_list(matrix.quantize, defaults.quantize)  # type: ignore[attr-defined]
        if not all([*axes, forms]):
            raise VariantsError(
                f"{file}:{line}: variants[{index}] lists no value for one of its keys", "list at least one"
            )
        for *numbers, quantize in product(*axes, forms):
            variant = Variant(tuple(numbers), quantize, family)
            check(variant, dims, f"{file}:{_line_of(family, places, index, line)}: variants[{index}]")
            if variant.name in found:
                raise VariantsError(
                    f"{file}:{line}: variants[{index}] says {variant.name} again (first: line {origin[variant.name]})",
                    "each variant is listed once: take the value out of one of the two",
                )
            found[variant.name] = variant
            origin[variant.name] = line
    return found


def _line_of(family: FamilySpec, places: Places, index: int, default: int) -> int:
    """The line of the value that :func:`check` refuses is that of its key, where the matrix spells it out."""
    keys = (("variants", index, key) for key in reversed(family.keys) if key != BATCH)
    return next((places[key] for key in keys if key in places), default)


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


def config_of_checkpoint(checkpoint: str, base: str = ".") -> tuple[Path, dict[str, Any]]:
    """The ``config.json`` of a local checkpoint and what it holds, nothing where there is none; ``base`` is the folder
    that a relative one is relative to."""
    config = Path(base) / Path(checkpoint).expanduser() / "config.json"
    if checkpoint == RANDOM_CHECKPOINT or not config.is_file():
        return config, {}
    try:
        content = json.loads(config.read_text())
    except ValueError as error:
        raise _no_configuration(config, FAMILIES[DEFAULT], error) from None
    return config, content if isinstance(content, dict) else {}


def _no_configuration(config: Path, family: FamilySpec, error: Exception) -> VariantsError:
    what = f"{config} is not a {family.title} configuration: {error}"
    return VariantsError(what, f"point model.checkpoint at a {family.title} checkpoint")


def _family_of(data: Mapping[str, Any], checkpoint: str, config: Mapping[str, Any]) -> FamilySpec:
    """The family that the file names, else the checkpoint's. A name that there is not is for the schema to refuse."""
    model = data.get("model")
    named = FAMILIES.get(str(model.get("family"))) if isinstance(model, dict) else None
    return named or claimed_by(checkpoint, config) or FAMILIES[DEFAULT]


def parse(text: str, file: str = "variants.yaml", dims: Any = None, base: str = ".") -> Variants:
    """Check the content of a ``variants.yaml``; ``dims`` replaces what the checkpoint itself would say.

    ``base`` is the folder of the file, which a local checkpoint is relative to. Raises :class:`VariantsError`: the
    value, its place (file, line, key) and the fix.
    """
    data, places = DOCUMENT.load(text, file)
    model = data.get("model")
    named = model.get("checkpoint") if isinstance(model, dict) else None
    config, content = config_of_checkpoint(str(named), base) if named else (Path(), {})
    family = _family_of(data, str(named or ""), content)
    settings = replace(DOCUMENT, model=variants_file(family)).check(data, places, file)
    try:
        dims = dims or (family.dims_of(content) if content else family.dims())
    except (ValueError, AttributeError, TypeError) as error:
        raise _no_configuration(config, family, error) from None
    variants = _expand(settings, family, dims, places, file)
    _check_backend(settings, variants, file, places)
    return Variants(settings, variants, dims, file, family)


def read(path: Path, shown: str | None = None) -> str:
    """The text of a ``variants.yaml``; :class:`VariantsError`, which calls it ``shown``, when it cannot be read."""
    return DOCUMENT.read(path, shown, "start from the project's own variants.yaml")
