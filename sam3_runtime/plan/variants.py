"""Read ``variants.yaml``: which engine variants to build, from what, and how.

Owns the variants' names (``b8_q50_r672_int8``) in both directions, matrices, and what a model or backend cannot do. The
schema is in ``settings.py``, lines and messages in ``core/yaml_document.py``. Pure: reads the file and a local
checkpoint's ``config.json``, nothing else.
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
from sam3_runtime.core.sections import Quantize
from sam3_runtime.core.yaml_document import Document, Lines
from sam3_runtime.engines.registry import BACKENDS, BUILT, BackendSpec
from sam3_runtime.families import DEFAULT, FAMILIES, claimed_by
from sam3_runtime.families.base import BATCH, EIGHT_BIT, FamilySpec
from sam3_runtime.plan.settings import VariantsFile, variants_file

RANDOM_CHECKPOINT = "random"
DOCUMENT = Document(VariantsFile, VariantsError, "variants: [{resolution: 1008}]")
_EXAMPLE = {"resolution": 672}


@dataclass(frozen=True, order=True)
class Variant:
    """One value for each axis of its family (``numbers``, in the order of the axes), and an 8-bit form or ``none``."""

    numbers: tuple[int, ...]
    quantize: Quantize = "none"
    family: FamilySpec = field(default=FAMILIES[DEFAULT], compare=False, repr=False)

    def __getitem__(self, axis: str) -> int:
        return self.numbers[self.family.keys.index(axis)]

    @property
    def axes(self) -> dict[str, int]:
        """The value of each axis, by its key."""
        return dict(zip(self.family.keys, self.numbers, strict=True))

    @property
    def batch(self) -> int:
        """The most images in one call; every family has that axis."""
        return self[BATCH]

    @property
    def suffix(self) -> str:
        """``_int8``, ``_fp8`` or nothing: the end of the variant's name and of the file names of its 8-bit part."""
        return "" if self.quantize == "none" else f"_{self.quantize}"

    @property
    def name(self) -> str:
        """Such as ``b8_q50_r672_int8``."""
        return self.family.shown(self.axes) + self.suffix

    def changed(self, **axes: int) -> Variant:
        """Return the variant with other values of some axes."""
        return replace(self, numbers=tuple((self.axes | axes).values()))

    @property
    def yaml_line(self) -> str:
        """The line that adds this variant to ``variants.yaml``."""
        listed = {**self.axes, **({} if self.quantize == "none" else {"quantize": self.quantize})}
        return f"  - {{{', '.join(f'{key}: {value}' for key, value in listed.items())}}}"

    @classmethod
    def from_name(cls, name: str, family: FamilySpec = FAMILIES[DEFAULT]) -> Variant:
        """Return the variant of that :attr:`name`; raises :class:`VariantsError` for anything else."""
        match = family.name_pattern.fullmatch(name)
        if match is None:
            example = family.shown({axis.key: _EXAMPLE.get(axis.key, axis.default) for axis in family.axes})
            raise VariantsError(
                f"{name!r} is not the name of a variant",
                f"names look like {example} or {example}_int8: {', '.join(family.keys)}",
            )
        return cls(tuple(int(match[key]) for key in family.keys), match["quantize"] or "none", family)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Variants:
    """A checked ``variants.yaml``: its settings, the variants in the order listed, and the model's dimensions."""

    settings: VariantsFile
    variants: dict[str, Variant]
    dims: Any
    file: str
    family: FamilySpec = FAMILIES[DEFAULT]

    def get(self, name: str) -> Variant:
        """Return the listed variant of that name; raises :class:`VariantsError` with the nearest one otherwise."""
        if name in self.variants:
            return self.variants[name]
        raise self.refuse(name)

    def refuse(self, name: str) -> VariantsError:
        """Return the message for a target that is a variant's bare name, or one that is not listed or malformed."""
        if name in self.variants:
            return VariantsError(
                f"{name} is a variant, not a file", f"to build and verify it: engines/{name}/verify.json"
            )
        try:
            asked = self._completed(name) or Variant.from_name(name, self.family)
            check(asked, self.dims, f"the variant {name}")
        except VariantsError as error:
            return error
        if asked.name != name:
            left_out = [axis.key for axis in self.family.axes if not re.search(rf"(^|_){axis.letter}\d", name)]
            return VariantsError(f"{name!r} gives no {', '.join(left_out)}", f"the whole name is {asked.name}")
        nearest = min(self.variants.values(), key=lambda known: _distance(known, asked))
        return VariantsError(
            f"the variant {name} is not listed in {self.file}",
            f"the nearest listed one is {nearest.name}; to build {name}, add under `variants:`\n{asked.yaml_line}",
        )

    def _completed(self, name: str) -> Variant | None:
        """Return the variant for a name that may leave out axes: they get the file's or the checkpoint's own values."""
        optional = "".join(rf"(?:_{axis.letter}(?P<{axis.key}>[1-9]\d*))?" for axis in self.family.axes)
        match = re.fullmatch(rf"{optional}(?:_(?P<quantize>{'|'.join(EIGHT_BIT)}))?", f"_{name}")
        if match is None:
            return None
        defaults = {**self.family.own_values(self.dims), **self.settings.defaults.model_dump(exclude_none=True)}
        given = defaults | {key: value for key, value in match.groupdict("none").items() if value != "none"}
        return Variant(tuple(int(given[key]) for key in self.family.keys), match["quantize"] or "none", self.family)  # type: ignore[arg-type]


def _distance(one: Variant, other: Variant) -> float:
    ratio = [max(a, b) / min(a, b) for a, b in zip(one.numbers, other.numbers, strict=True)]
    return sum(ratio) + (one.quantize != other.quantize) * 0.5


def check(variant: Variant, dims: Any, where: str) -> None:
    """Raise :class:`VariantsError`, which begins with ``where``, for values that the model does not support."""
    refusal = variant.family.refuse(dims, variant.axes)
    if refusal:
        raise VariantsError(f"{where}: {refusal[0]}", refusal[1])


def _expand(settings: VariantsFile, family: FamilySpec, dims: Any, lines: Lines) -> dict[str, Variant]:
    """Return every combination of each matrix, by name."""
    found: dict[str, Variant] = {}
    first_lines: dict[str, int] = {}
    own = {**family.own_values(dims), **settings.defaults.model_dump(exclude_none=True)}
    for index, matrix in enumerate(settings.variants):
        where = f"{lines.file}:{lines.line('variants', index)}: variants[{index}]"
        values = own | matrix.model_dump(exclude_none=True)
        listed = [value if isinstance(value := values[key], list) else [value] for key in (*family.keys, "quantize")]
        if not all(listed):
            raise VariantsError(f"{where} lists no value for one of its keys", "list at least one")
        # The line of the value that `check` may refuse, where the matrix spells it out.
        spelled = (("variants", index, key) for key in reversed(family.keys) if key != BATCH)
        location = next((keys for keys in spelled if keys in lines.numbers), ("variants", index))
        for *numbers, quantize in product(*listed):
            variant = Variant(tuple(numbers), quantize, family)
            check(variant, dims, f"{lines.file}:{lines.line(*location)}: variants[{index}]")
            if variant.name in found:
                raise VariantsError(
                    f"{where} lists {variant.name} again (first: line {first_lines[variant.name]})",
                    "each variant is listed once: take the value out of one of the two",
                )
            found[variant.name] = variant
            first_lines[variant.name] = lines.line("variants", index)
    return found


def _check_backend(settings: VariantsFile, variants: Mapping[str, Variant], lines: Lines) -> None:
    """Refuse precisions and 8-bit forms that the backend does not build."""
    precisions = {settings.precision} if isinstance(settings.precision, str) else set(settings.precision.values())
    backend = BACKENDS.get(settings.backend)  # None for `auto`
    refused = (precisions - {"auto"}).difference(backend.precisions if backend else precisions)
    if backend and refused:
        able = _backends(lambda one: refused <= set(one.precisions))
        raise VariantsError(
            f"{lines.file}:{lines.line('precision')}: the backend {backend.name} does not build precision "
            f"{', '.join(sorted(refused))}",
            f"use {' or '.join(backend.precisions)} or auto there; {', '.join(sorted(refused))} is for {able}",
        )
    fp8 = next((name for name, variant in variants.items() if variant.quantize == "fp8"), None)
    if fp8 and not (backend and backend.builds_fp8()):
        raise VariantsError(
            f"{lines.file}: {fp8} asks for fp8, which the backend {settings.backend} does not build",
            f"fp8 needs {_backends(lambda one: one.builds_fp8())} and a GPU from Ada on; int8 works here",
        )
    too_old = without_fp8(settings.build.gpus) if backend and backend.compiles_for_generations else []
    if fp8 and too_old:
        able = names_of(one for one in GENERATIONS if as_number(one) >= as_number(FIRST_WITH_FP8))
        raise VariantsError(
            f"{lines.where('build', 'rtx', 'gpus')}: {fp8} asks for fp8, which {names_of(too_old)} cannot compute in",
            f"fp8 is for {able}: leave the others out, or use int8, which every generation has",
        )
    if settings.calibration.method == "calibrator":
        _check_calibrator(settings, backend, fp8, lines.where("calibration", "method"))


def _backends(able: Callable[[BackendSpec], bool]) -> str:
    """Return those for which ``able`` is true, as they are written in ``variants.yaml``."""
    return " or ".join(f"`backend: {name}`" for name in BUILT if able(BACKENDS[name]))


def _check_calibrator(settings: VariantsFile, backend: BackendSpec | None, fp8: str | None, where: str) -> None:
    """Refuse what no TensorRT calibrator supports; what this release supports is checked by the plan."""
    where += ": calibrator"
    if not (backend and backend.calibrates):
        raise VariantsError(
            f"{where} needs {_backends(lambda one: one.calibrates)} (10 or older), and this folder's backend is "
            f"{settings.backend}",
            "use `method: qdq`, which every backend runs",
        )
    if fp8:
        raise VariantsError(
            f"{where} measures int8 alone, and {fp8} asks for fp8", "use `method: qdq`, which measures for both"
        )
    if settings.calibration.exclude:
        raise VariantsError(
            f"{where} takes every layer, and calibration.exclude names {settings.calibration.exclude[0]!r}",
            "take `exclude` out, or use `method: qdq`",
        )


def _config_of(checkpoint: str, base: str) -> tuple[Path, dict[str, Any]]:
    """Return the path and content of a local checkpoint's ``config.json``; no content without such a file."""
    config = Path(base) / Path(checkpoint).expanduser() / "config.json"
    if checkpoint in ("", RANDOM_CHECKPOINT) or not config.is_file():
        return config, {}
    try:
        content = json.loads(config.read_text())
    except ValueError as error:
        raise _no_configuration(config, FAMILIES[DEFAULT], error) from None
    return config, content if isinstance(content, dict) else {}


def _no_configuration(config: Path, family: FamilySpec, error: Exception) -> VariantsError:
    return VariantsError(
        f"{config} is not a {family.title} configuration: {error}",
        f"point model.checkpoint at a {family.title} checkpoint",
    )


def parse(text: str, file: str = "variants.yaml", dims: Any = None, base: str = ".") -> Variants:
    """Return the checked content of a ``variants.yaml``.

    ``dims`` replaces the checkpoint's own dimensions. ``base`` is the folder of the file, which a local checkpoint is
    relative to. Raises :class:`VariantsError` with the value, its line and key, and the fix.
    """
    data, lines = DOCUMENT.load(text, file)
    model = data.get("model")
    model = model if isinstance(model, dict) else {}
    checkpoint = str(model.get("checkpoint") or "")
    config, content = _config_of(checkpoint, base)
    # A family that is not known is for the schema to refuse.
    family = FAMILIES.get(str(model.get("family"))) or claimed_by(checkpoint, content) or FAMILIES[DEFAULT]
    settings = replace(DOCUMENT, model=variants_file(family)).check(data, lines)
    try:
        dims = dims or (family.dims_of(content) if content else family.dims())
    except (ValueError, AttributeError, TypeError) as error:
        raise _no_configuration(config, family, error) from None
    variants = _expand(settings, family, dims, lines)
    _check_backend(settings, variants, lines)
    return Variants(settings, variants, dims, file, family)


def read(path: Path, shown: str | None = None) -> str:
    """Return the text of a ``variants.yaml``; raises :class:`VariantsError`, which calls it ``shown``."""
    return DOCUMENT.read(path, shown, "start from the project's own variants.yaml")
