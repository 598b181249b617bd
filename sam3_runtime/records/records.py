"""Define the records: small JSON files that describe every other file.

    checkpoint.lock            CheckpointLock   the weights that this work folder was first built from
    toolchain.json             Toolchain        what it was built with, and on what
    <name>.engine.json         EngineRecord     one engine: its digest, tensors, profile, sizes, build
    config.json                VariantConfig    one variant: model, checkpoint, preprocessing
    verify.json                Verdict          the accuracy gate's verdict, and the digests that it is about

Pure: standard library and pydantic. Each file is written to a temporary name and renamed, so that none is ever half
there, and is read with one error that names the file and what to do. A digest detects damage and mix-ups; it is not a
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
    """A JSON file with a schema. Unknown keys are refused, so that a record of a newer version is noticed.

    A NaN, such as a cosine with a zero vector, is written as text, since JSON has no number for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check ``path``; raises :class:`RecordError` when it is missing, damaged or of another version."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"{path} is missing", f"run {command_for(path)}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            location = ".".join(str(key) for key in first["loc"]) or "the file"
            raise RecordError(
                f"{path} is damaged or was written by another version: {location}: {first['msg']}",
                f"delete it and run {command_for(path)}",
            ) from None

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_atomically(path, (self.model_dump_json(indent=2) + "\n").encode())


class SealedRecord(Record):
    """A record with a digest of itself, which is checked when it is read: an edit is noticed.

    ``ADDED`` are fields that newer versions added: where they are null, the digest leaves them out, so that older
    records stay valid.
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
        """Read and check ``path``; raises :class:`RecordError` also when its digest does not match."""
        record = super().read(path)
        if record.digest != record.sealed().digest:
            raise RecordError(
                f"{path} was edited: its content does not match its own digest",
                f"change variants.yaml instead; delete the file and run {command_for(path)}",
            )
        return record


Resample = Literal["bilinear-antialias", "bicubic-antialias", "lanczos-antialias"]


class Preprocessing(Record):
    """How an image becomes R×R pixels: resized as 8-bit RGB, divided by 255, then (x - mean) / std per channel.

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
    family: str | None = None
    """Family of the model; null in records from before there were several."""
    preprocessing: Preprocessing | None = None
    """That of the checkpoint; null for the family's default."""
    random: bool = False
    """Whether the weights are seeded, for timing alone."""

    @property
    def spec(self) -> FamilySpec:
        """The family of the model."""
        return family_of(self.family)

    @property
    def model_dims(self) -> Any:
        """The dimensions as their family has them."""
        return self.spec.dims(**self.dims)

    def at(self, location: str) -> CheckpointLock:
        """Return the lock with the location that the checkpoint is loaded from here."""
        return self.model_copy(update={"checkpoint": location})


class Toolchain(Record):
    """What engines are built with."""

    backend: Backend
    version: str
    """Version of ONNX Runtime or TensorRT."""
    gpu: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda: str | None = None

    def key(self) -> dict[str, str | None]:
        """Return backend, version, GPU and compute capability: a change of one makes every engine due again."""
        return self.model_dump(include={"backend", "version", "gpu", "compute_capability"})


class TensorRecord(Record):
    """An input or output of an engine; a text in its shape is a dynamic dimension."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


class Sizes(Record):
    """Sizes in bytes; null where the backend does not report it."""

    file: int
    weights: int | None = None
    """Occupied on the device while the engine is loaded."""
    scratch: int | None = None
    """Scratch memory of the layer that needs most."""
    activation: int | None = None
    """The block that one run works in, scratch included."""


UNKNOWN = "unknown"
"""A type that TensorRT does not report."""


class Layers(Record):
    """An engine's layers, as reported by TensorRT's inspector; what it does not show is ``unknown``."""

    count: int
    types: dict[str, int]
    """Layers by the type that they write."""
    work: dict[str, int]
    """Matrix work by the type that it is done in, in weights that enter it."""
    attention: int
    """Fused attention kernels."""
    reformats: int
    """Layers that only change a tensor's type or layout."""
    opaque: int
    """Fused blocks whose inside is not shown."""
    narrowed: tuple[str, ...] = ()
    """Nodes of FP32 exceptions that run in another type."""

    @property
    def eight_bit_share(self) -> float | None:
        """The share of the matrix work that is done in 8 bits, of what is known; None where most is unknown."""
        whole = sum(self.work.values())
        known = whole - self.work.get(UNKNOWN, 0)
        eight = self.work.get("int8", 0) + self.work.get("fp8", 0)
        return eight / known if whole and known * 2 >= whole else None


class OfFamily(SealedRecord):
    """A record about a variant or one of its engines.

    In the file, each axis is a field of its own, such as ``"resolution": 672``; null where an engine does not depend on
    it.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"family"})

    family: str | None = None
    """Family of the model; null in records from before there were several."""
    axes: dict[str, int | None]

    @property
    def spec(self) -> FamilySpec:
        """The family of the model."""
        return family_of(self.family)

    @property
    def batch(self) -> int:
        """The most images in one call."""
        return self.axes[BATCH] or 0

    @property
    def resolution(self) -> int:
        """The side of the model's images in pixels; 0 for an engine that does not depend on it."""
        return self.axes[RESOLUTION] or 0

    @classmethod
    def _spread(cls, spec: FamilySpec) -> dict[str, dict[str, str]]:
        """Return the fields whose entries are fields of their own in the file: the entry by its name there."""
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
    """One engine, as recorded by the job that built it; the runtime reads it before it opens the engine."""

    ADDED: ClassVar[frozenset[str]] = OfFamily.ADDED | {"layers", "modified"}

    part: str
    graph: str
    """Name of the graph, such as decoder_q50."""
    sha256: str
    onnx_sha256: str
    """SHA-256 of the graph with its external data."""
    checkpoint_digest: str
    backend: Backend
    precision: Precision
    """The requested float type."""
    precision_got: dict[str, int] = Field(default_factory=dict)
    """Operators by element type."""
    layers: Layers | None = None
    quantize: Literal["int8", "fp8"] | None = None
    calibration_key: str | None = None
    dims: dict[str, int]
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    profile: dict[str, tuple[int, int, int]]
    """Min, opt, max of each dynamic dimension."""
    sizes: Sizes
    build_seconds: float
    build_peak_mib: float | None = None
    """Largest resident set of the process that built it."""
    command: str
    toolchain: Toolchain
    settings: dict[str, Any]
    cache_key: str
    modified: int | None = None
    """Modification time of the engine's file, in seconds since 1970."""


class VariantConfig(OfFamily):
    """A variant; its engines have records of their own.

    In the file, the digest of each asset is a field of its own, such as ``"tokenizer_sha256"``.
    """

    variant: str
    quantize: Literal["int8", "fp8"] | None
    backend: Backend
    dims: dict[str, int]
    checkpoint: str
    revision: str | None
    commit: str | None
    checkpoint_digest: str
    preprocessing: Preprocessing = Preprocessing()
    assets: dict[str, str]
    """SHA-256 of each file beside the engines that running needs."""
    notice: str

    @classmethod
    def _spread(cls, spec: FamilySpec) -> dict[str, dict[str, str]]:
        return super()._spread(spec) | {"assets": {f"{Path(asset).stem}_sha256": asset for asset in spec.assets}}


class Check(Record):
    """One comparison with the reference: ``value`` must be ``at least`` or ``at most`` ``limit``."""

    name: str
    value: float
    limit: float
    sense: Literal["at least", "at most"]

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit; a NaN is not."""
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit


class Counts(Record):
    """Detections above the threshold, over cases of the reference and all decoder calls of each."""

    expected: int
    """Found by float32 PyTorch."""
    found: int
    """Found by the variant."""
    agreed: int
    """Found by both."""


class Verdict(SealedRecord):
    """The verdict of the accuracy gate about a variant.

    ``passed``, ``rejected`` (ran, but not accurately enough), ``failed`` (did not run), or ``unverified`` (this machine
    cannot run it).

    ``engines`` maps each part to the SHA-256 of its engine: the runtime ignores a verdict about other engines.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"accuracy", "accuracy_sha256", "found", "by_prompt"})

    variant: str
    status: Literal["passed", "rejected", "failed", "unverified"]
    reason: str
    checks: tuple[Check, ...] = ()
    errors: dict[str, float] = Field(default={})
    """Largest absolute error of each output."""
    cases: int = 0
    detections: int = 0
    """Detections in the reference, over all cases and decoder calls."""
    found: int | None = None
    """Detections of the variant, counted likewise."""
    by_prompt: dict[str, Counts] | None = None
    """The same by prompt."""
    engines: dict[str, str]
    reference_sha256: str
    accuracy: dict[str, Any] | None = None
    """Accuracy on the data set of `accuracy:` (metrics.Accuracy)."""
    accuracy_sha256: str | None = None
    """SHA-256 of the reference's accuracy that it was compared with."""
    gate: dict[str, Any]
    device: str
    """Name of the device that the engines ran on."""
