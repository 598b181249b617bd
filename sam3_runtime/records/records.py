"""Records: the small JSON files that say what every other file is.

    checkpoint.lock            CheckpointLock   the weights that this work folder was first built from
    toolchain.json             Toolchain        what it was built with, and on what
    <name>.engine.json         EngineRecord     one engine: its digest, tensors, profile, sizes, build
    config.json                VariantConfig    one variant: model, checkpoint, preprocessing
    verify.json                Verdict          the accuracy gate's verdict, and the digests that it is about

Pure: standard library and pydantic. Each file is written to a temporary name and renamed, so that none is ever half
there, and is read with one error that names the file and what to do. A digest shows damage and mix-ups; it is no
signature.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import digest_of, write_atomically
from sam3_runtime.core.hints import command_for
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.families import FAMILIES, family_of
from sam3_runtime.families.base import BATCH, RESOLUTION, FamilySpec

if TYPE_CHECKING:
    Backend = str
else:
    Backend = Literal[tuple(BACKENDS)]
Precision = Literal["fp32", "fp16"]


class Record(BaseModel):
    """A JSON file with a schema. Unknown keys are kept out, so that a record of a newer version is noticed.

    A NaN, as a cosine with nothing is, is written as text, since JSON has no number for it, and comes back as one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check ``path``; :class:`RecordError` when it is missing, damaged or of another version."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"{path} is missing", f"run {command_for(path)}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(key) for key in first["loc"]) or "the file"
            raise RecordError(
                f"{path} is damaged or was written by another version: {place}: {first['msg']}",
                f"delete it and run {command_for(path)}",
            ) from None

    def write(self, path: Path) -> None:
        write_atomically(path, (self.model_dump_json(indent=2) + "\n").encode())


class SealedRecord(Record):
    """A record with a digest of itself, written with it and checked when it is read: an edit is noticed.

    ``ADDED`` are fields that came later: null, they are not in the digest, so that older records stay whole.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset()

    digest: str = ""

    def sealed(self) -> Self:
        """Return the record with its digest."""
        unset = {name for name in self.ADDED if getattr(self, name) is None}
        content = json.loads(self.model_dump_json(exclude={"digest"} | unset))
        return self.model_copy(update={"digest": digest_of(content)})

    def write(self, path: Path) -> None:
        """Write the record with its digest."""
        Record.write(self.sealed(), path)

    @classmethod
    def read(cls, path: Path) -> Self:
        record = super().read(path)
        if record.digest != record.sealed().digest:
            raise RecordError(
                f"{path} was edited: its content does not match its own digest",
                f"change variants.yaml instead; delete the file and run {command_for(path)}",
            )
        return record


Resample = Literal["bilinear-antialias", "bicubic-antialias", "lanczos-antialias"]


class Preprocessing(Record):
    """How an image becomes R×R numbers: resized on 8-bit values, /255, then (x - mean) / std per channel, RGB.

    ``stretch`` resizes both sides to R. ``crop`` resizes the shorter one to R / ``crop``, the other in proportion, and
    takes the middle; those two fields are not written where they have their defaults.
    """

    resample: Resample = "bilinear-antialias"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fit: Literal["stretch", "crop"] = "stretch"
    crop: float | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = dump(self)
        return {
            name: value for name, value in written.items() if (name, value) not in (("fit", "stretch"), ("crop", None))
        }


class CheckpointLock(Record):
    """The weights that a work folder was first built from.

    ``commit`` is what ``revision`` was then (hub checkpoints only); ``digest`` covers every byte of the weights.
    """

    checkpoint: str
    revision: str | None
    commit: str | None
    digest: str
    dims: dict[str, int]
    family: str | None = Field(None, description="of the model; null: that of records which name none")
    preprocessing: Preprocessing | None = Field(None, description="the model's own; null: the family's")
    random: bool = Field(False, description="seeded weights: for timing alone")

    @property
    def spec(self) -> FamilySpec:
        return family_of(self.family)

    @property
    def model_dims(self) -> Any:
        """The dimensions as their family has them."""
        return self.spec.dims(**self.dims)

    def at(self, location: str) -> CheckpointLock:
        """The same lock, with the place that the checkpoint is loaded from here."""
        return self.model_copy(update={"checkpoint": location})


class Toolchain(Record):
    """What engines are built with. ``key`` is the share of it that an engine stops being valid with."""

    backend: Backend
    version: str = Field(description="of ONNX Runtime or TensorRT")
    gpu: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda: str | None = None

    def key(self) -> dict[str, str | None]:
        """Backend, version, GPU and compute capability: changing one makes every engine due again."""
        return self.model_dump(include={"backend", "version", "gpu", "compute_capability"})


class TensorRecord(Record):
    name: str
    shape: tuple[int | str, ...]
    dtype: str


class Sizes(Record):
    """Bytes. What the backend does not tell is null."""

    file: int
    weights: int | None = Field(None, description="on the device for as long as the engine is loaded")
    scratch: int | None = Field(None, description="of the layer that needs most")
    activation: int | None = Field(None, description="the block that one run works in, scratch included")


UNKNOWN = "unknown"
"""A type that TensorRT does not show."""


class Layers(Record):
    """What an engine is made of, as TensorRT's own inspector tells. What it does not show is ``unknown``."""

    count: int
    types: dict[str, int] = Field(description="layers by the type that they write")
    work: dict[str, int] = Field(description="matrix work by the type that it is done in, in weights that enter it")
    attention: int = Field(description="fused attention kernels")
    reformats: int = Field(description="layers that only change a tensor's type or layout")
    opaque: int = Field(description="fused blocks whose inside is not shown")
    narrowed: tuple[str, ...] = Field((), description="nodes of float32 islands that run in another type")

    @property
    def eight_bit_share(self) -> float | None:
        """The share of the matrix work that is done in 8 bits, of what is known; None where most of it is hidden."""
        whole = sum(self.work.values())
        known = whole - self.work.get(UNKNOWN, 0)
        eight = self.work.get("int8", 0) + self.work.get("fp8", 0)
        return eight / known if whole and known * 2 >= whole else None


class OfFamily(SealedRecord):
    """A record about a variant or an engine of one. In the file the axes stand by their names among the other fields:
    ``"resolution": 672``; what an engine does not differ by is null."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"family"})

    family: str | None = Field(None, description="of the model; null: that of records which name none")
    axes: dict[str, int | None]

    @property
    def spec(self) -> FamilySpec:
        return family_of(self.family)

    @property
    def batch(self) -> int:
        return self.axes[BATCH] or 0

    @property
    def resolution(self) -> int:
        """In pixels; 0 for an engine that does not differ by it."""
        return self.axes[RESOLUTION] or 0

    @classmethod
    def _spread(cls, spec: FamilySpec) -> dict[str, dict[str, str]]:
        """The fields whose entries stand in the file by names of their own: the entry by its name there."""
        return {"axes": {key: key for key in spec.keys}}

    @model_validator(mode="before")
    @classmethod
    def _read_spread(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("family") not in (None, *FAMILIES):
            return data
        data = dict(data)
        for field, names in cls._spread(family_of(data.get("family"))).items():
            if field not in data:
                data[field] = {entry: data.pop(name) for name, entry in names.items() if name in data}
        return data

    @model_serializer(mode="wrap")
    def _write_spread(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = dump(self)
        for field, names in self._spread(self.spec).items():
            entries = written.pop(field, {})
            written |= {name: entries[entry] for name, entry in names.items() if entry in entries}
        return written


class EngineRecord(OfFamily):
    """What one engine is. Written by the job that built it; the runtime reads it before it opens the engine."""

    ADDED: ClassVar[frozenset[str]] = OfFamily.ADDED | {"layers", "modified"}

    part: str
    graph: str = Field(description="name of the graph, such as decoder_q50")
    sha256: str
    onnx_sha256: str = Field(description="of the graph with its external data")
    checkpoint_digest: str
    backend: Backend
    precision: Precision = Field(description="asked for")
    precision_got: dict[str, int] = Field(default_factory=dict, description="operators by element type")
    layers: Layers | None = None
    quantize: Literal["int8", "fp8"] | None = None
    calibration_key: str | None = None
    dims: dict[str, int]
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    profile: dict[str, tuple[int, int, int]] = Field(description="min, opt, max of each dynamic dimension")
    sizes: Sizes
    build_seconds: float
    build_peak_mib: float | None = Field(None, description="largest resident set of the process that built it")
    command: str
    toolchain: Toolchain
    settings: dict[str, Any]
    cache_key: str
    modified: int | None = Field(None, description="time stamp of the engine's file, in seconds since 1970")


class VariantConfig(OfFamily):
    """The variant's own facts; what its engines are stands in their records.

    In the file each asset stands by its name: ``"tokenizer_sha256"``."""

    variant: str
    quantize: Literal["int8", "fp8"] | None
    backend: Backend
    dims: dict[str, int]
    checkpoint: str
    revision: str | None
    commit: str | None
    checkpoint_digest: str
    preprocessing: Preprocessing = Preprocessing()
    assets: dict[str, str] = Field(description="SHA-256 of each file beside the engines that running needs")
    notice: str

    @classmethod
    def _spread(cls, spec: FamilySpec) -> dict[str, dict[str, str]]:
        return super()._spread(spec) | {"assets": {f"{Path(asset).stem}_sha256": asset for asset in spec.assets}}


class Check(Record):
    """One comparison with the reference: ``value`` against ``limit`` (``at least`` or ``at most``)."""

    name: str
    value: float
    limit: float
    sense: Literal["at least", "at most"]

    @property
    def passed(self) -> bool:
        # Written so that a NaN fails.
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit


class Counts(Record):
    """Detections above the threshold, over cases of the reference and every decoder call that each is made in."""

    expected: int = Field(description="that float32 PyTorch keeps")
    found: int = Field(description="that the variant keeps")
    agreed: int = Field(description="that both keep")


class Verdict(SealedRecord):
    """``passed``, ``rejected`` (ran, but not accurately enough), ``failed`` (did not run), or ``unverified`` (built
    for another machine: this one cannot run it).

    ``engines`` maps each part to the SHA-256 that was judged: the runtime ignores a verdict about other engines.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"accuracy", "accuracy_sha256", "found", "by_prompt"})

    variant: str
    status: Literal["passed", "rejected", "failed", "unverified"]
    reason: str
    checks: tuple[Check, ...] = ()
    errors: dict[str, float] = Field(default={}, description="largest absolute error of each output")
    cases: int = 0
    detections: int = Field(0, description="that the reference expects, over all cases and decoder calls")
    found: int | None = Field(None, description="that the variant found, counted likewise")
    by_prompt: dict[str, Counts] | None = Field(None, description="both, and those in common, of each prompt")
    engines: dict[str, str]
    reference_sha256: str
    accuracy: dict[str, Any] | None = Field(None, description="on the data set of `accuracy:`; metrics.Accuracy")
    accuracy_sha256: str | None = Field(None, description="of the reference's accuracy that it was held against")
    gate: dict[str, Any]
    device: str = Field(description="what the engines ran on")
