"""Records of measurements: what was timed, on what, and what it took. People are to share them.

None holds a path, a host or a user's name. Every time is in milliseconds, every size in MiB. Pure: pydantic alone.
What each number has in it: docs/measuring.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Literal

from pydantic import Field

from sam3_runtime.records.records import Backend, Check, EngineRecord, Record, Toolchain, VariantConfig

_STABLE = 0.1


def shareable(checkpoint: str) -> str:
    """A checkpoint's name without the folders that it lies in: people are to share the result."""
    return checkpoint if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")) else Path(checkpoint).name


class OfVariant(Record):
    """Which variant was measured, on what, and when: what every measurement of one begins with."""

    variant: str
    backend: Backend
    device: str
    checkpoint: str
    checkpoint_digest: str
    engines: dict[str, str] = Field(description="SHA-256 of each part that was measured")
    date: str


def of_variant(config: VariantConfig, records: Mapping[str, EngineRecord], device: str) -> dict[str, Any]:
    """The fields of :class:`OfVariant`, today."""
    return {
        "variant": config.variant,
        "backend": config.backend,
        "device": device,
        "checkpoint": shareable(config.checkpoint),
        "checkpoint_digest": config.checkpoint_digest,
        "engines": {part: record.sha256 for part, record in records.items()},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


class Latency(Record):
    """Milliseconds over ``n`` timed rounds."""

    median: float
    mean: float
    p95: float
    p99: float
    n: int


def latency(samples: Sequence[float]) -> Latency:
    """Summary of samples in milliseconds; percentiles are interpolated between neighbours."""
    cuts = quantiles(samples if len(samples) > 1 else [*samples, *samples], n=100, method="inclusive")
    numbers = {"median": median(samples), "mean": fmean(samples), "p95": cuts[94], "p99": cuts[98]}
    return Latency(**{name: round(value, 3) for name, value in numbers.items()}, n=len(samples))


def stable(windows: Sequence[Sequence[float]]) -> bool:
    """Whether the medians of the windows agree within a tenth: those that do not are no measurement."""
    medians = [median(times) for times in windows]
    return max(medians) - min(medians) <= _STABLE * median(medians)


class Reading(Record):
    """What the driver says of a GPU at one moment, or the median of several; null is what this card does not tell."""

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    used_mib: float | None = Field(None, description="of the card's memory, by everyone")
    busy_percent: float | None = Field(None, description="of the time just before, in which any kernel ran")


class Clocks(Record):
    """The GPU before anything was loaded, and while the clock ran: the median of ``samples`` readings."""

    before: Reading
    during: Reading
    samples: int


class DeviceMemory(Record):
    """What the process took of the GPU's memory, CUDA context included.

    ``method``: ``process`` is what the driver books on this process; ``difference`` is what the card has in use less
    what it had before (right where nothing else runs on it); ``device`` is all that is in use, by whomever (a card
    without ``nvidia-smi``).
    """

    method: Literal["process", "difference", "device"]
    before_mib: float | None = Field(description="in use on the card before the engines were loaded")
    loaded_mib: float = Field(description="once the engines are loaded")
    ready_mib: float = Field(description="after the warm-up: prompts encoded, text encoder released, buffers there")
    peak_mib: float = Field(description="the most that was seen while rounds ran")


class PartBench(Record):
    """One part alone, its inputs already where it reads them; synchronised before each reading of the clock."""

    part: str
    images: int = Field(description="rows of features: images encoded, or seen by the decoder (N)")
    prompts: int = Field(0, description="rows of prompts (P); 0 for the vision encoder")
    latency: Latency = Field(description="of one call")
    stable: bool

    @property
    def per_image(self) -> float:
        return self.latency.median / max(self.images, 1)


class CameraBench(Record):
    """A round is one image from each of ``cameras``: preprocessing to postprocessing, images decoded beforehand.

    ``end_to_end`` is of rounds that nothing interrupts. ``stages`` are of rounds of their own, in which the GPU is
    waited for at each border: they add up to more than a round.
    """

    cameras: int
    end_to_end: Latency
    stages: dict[str, Latency]
    fps_per_camera: float
    stable: bool = Field(description="whether the medians of the windows agree within a tenth")
    masks_kept: float = Field(description="per round, mean")
    samples_ms: tuple[float, ...]


class Rounds(Record):
    """What is measured with one set of the runtime's options."""

    cameras: tuple[CameraBench, ...]
    parts: tuple[PartBench, ...]

    def camera(self, count: int) -> CameraBench | None:
        return next((one for one in self.cameras if one.cameras == count), None)

    def part(self, name: str, images: int, prompts: int = 0) -> PartBench | None:
        asked = (name, images, prompts)
        return next((one for one in self.parts if (one.part, one.images, one.prompts) == asked), None)


class BenchResult(Rounds, OfVariant):
    """One variant's benchmark."""

    driver: str | None = None
    toolchain: Toolchain
    threads: int | None
    prompts: int
    load_seconds: float
    memory_before_mib: float = Field(description="resident set before the engines were loaded")
    memory_peak_mib: float = Field(description="largest resident set of the process")
    device_memory: DeviceMemory | None = Field(None, description="where the engines run on a GPU")
    clocks: Clocks | None = Field(None, description="where the driver tells")
    without: dict[str, Rounds] = Field({}, description="the same with one option of the runtime off, by its name")


class EngineCalls(Record):
    """Calls of one engine with inputs of one shape: how often in a round, and what one takes with nothing beside it."""

    part: str
    shape: dict[str, int] = Field(description="value of each dimension that differs from call to call")
    calls: float = Field(description="in a round, mean")
    alone: Latency
    stable: bool


class StreamBench(OfVariant):
    """A run over several sources, nothing written, and beside it its engines alone.

    A round is one batch of frames, decoding of the files included; ``rounds`` times from one to the next in the steady
    state. ``engines_ms`` is what the engines' calls of a mean round take together, each alone; ``ratio`` is the mean
    round over it. ``frame`` is from a frame's being read to its detections being there, waiting in queues included.
    """

    driver: str | None = None
    toolchain: Toolchain
    threads: int | None
    classes: int
    kept: int | None = Field(description="best detections that each class keeps whatever their score; null: by score")
    masks: float = Field(description="kept in a round, mean")
    cameras: int
    pictures: tuple[tuple[int, int], ...] = Field(description="height and width, of each camera's frames")
    frames: int = Field(description="in the steady state, of all cameras")
    images: float = Field(description="in a round, mean")
    seconds: float
    rounds: Latency
    stable: bool = Field(description="whether the medians of quarters of the run agree within a tenth")
    frame: Latency
    fps: float
    fps_per_camera: float
    engines_ms: float
    ratio: float
    ratio_inside: float | None = Field(
        None, description="over what the same calls took within the run; null on a GPU, where calls return at once"
    )
    calls: tuple[EngineCalls, ...]
    memory_peak_mib: float = Field(description="largest resident set of the process")
    device_memory: DeviceMemory | None = None
    clocks: Clocks | None = Field(None, description="with `busy_percent`, the median of readings during the run")
    busy_percent: float | None = Field(None, description="mean of those readings")


class Measured(Record):
    """One variant as tables have it, raw: a table can be made again from it.

    ``status``, ``reason``, ``checks``, ``detections`` and ``found`` are the verdict's; ``predicted`` is what
    ``sam3-runtime info`` says about memory; ``engines`` is of each part's record what may be shared (:func:`facts_of`).
    """

    variant: str
    status: str
    reason: str
    checks: tuple[Check, ...] = ()
    detections: int = Field(0, description="that the reference expects")
    found: int | None = Field(None, description="that the variant found; null: judged before this was counted")
    accuracy: dict[str, Any] | None = Field(None, description="on the data set of `accuracy:`, where there is one")
    predicted: dict[str, Any] | None = None
    engines: dict[str, dict[str, Any]] = Field(default={})
    bench: BenchResult | None = None


_PRIVATE = {"command", "cache_key", "digest"}  # a command has paths in it
_LONG = {"inputs", "outputs", "dims"}


def facts_of(records: dict[str, EngineRecord]) -> dict[str, dict[str, Any]]:
    """Of each record what a table is made of; no path."""
    return {part: one.model_dump(mode="json", exclude=_PRIVATE | _LONG) for part, one in records.items()}


class BaselineRun(Record):
    """One way to run the model without this project, at one batch."""

    batch: int
    vision: Latency = Field(description="vision encoder, one call, pixels on the device")
    end_to_end: Latency = Field(description="one round; masks at the picture's size stay on the device")
    stable: bool
    allocated_mib: float | None = Field(description="the most that PyTorch's tensors took together")
    reserved_mib: float | None = Field(description="the most that PyTorch held of the card")
    samples_ms: dict[str, tuple[float, ...]]


class BaselineWay(Record):
    """The model's own library as it is, or compiled. ``failed`` says why there are no runs."""

    name: str
    attention: str
    runs: tuple[BaselineRun, ...] = ()
    compile_seconds: float | None = Field(None, description="of the first calls at every batch")
    failed: str | None = None


class Baseline(Record):
    """What a user has without this project, measured on the same GPU: ``bench/baselines/r<resolution>.json``."""

    resolution: int
    device: str
    driver: str | None
    precision: Literal["float16", "float32"]
    libraries: dict[str, str]
    checkpoint: str
    checkpoint_digest: str
    date: str
    prompts: int
    masks: int
    picture: tuple[int, int] = Field(description="height and width")
    process_mib: float | None = Field(description="what the driver books on this process at the end, where it tells")
    clocks: Clocks | None
    ways: tuple[BaselineWay, ...]
