"""Define the records of measurements: what was timed, on which device, and the result.

They can be shared: none contains a path, a host or a user's name. Times are in milliseconds, sizes in MiB. Pure.
docs/measuring.md explains what each number includes.
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
    """Return a checkpoint's name without the folders that it is in, so that it can be shared."""
    return checkpoint if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")) else Path(checkpoint).name


class OfVariant(Record):
    """Which variant was measured, on which device, and when: the start of every measurement."""

    variant: str
    backend: Backend
    device: str
    checkpoint: str
    checkpoint_digest: str
    engines: dict[str, str]
    """SHA-256 of each part that was measured."""
    date: str


def of_variant(config: VariantConfig, records: Mapping[str, EngineRecord], device: str) -> dict[str, Any]:
    """Return the fields of :class:`OfVariant` for a measurement of today."""
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
    """Summarise samples in milliseconds; percentiles are interpolated between neighbours."""
    cuts = quantiles(samples if len(samples) > 1 else [*samples, *samples], n=100, method="inclusive")
    numbers = {"median": median(samples), "mean": fmean(samples), "p95": cuts[94], "p99": cuts[98]}
    return Latency(**{name: round(value, 3) for name, value in numbers.items()}, n=len(samples))


def stable(windows: Sequence[Sequence[float]]) -> bool:
    """Return whether the medians of the windows agree within a tenth; otherwise the measurement is not valid."""
    medians = [median(times) for times in windows]
    return max(medians) - min(medians) <= _STABLE * median(medians)


class Reading(Record):
    """What the driver reports about a GPU at one moment, or medians; null where this GPU does not report it."""

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    used_mib: float | None = None
    """Memory of the GPU in use by all processes."""
    busy_percent: float | None = None
    """Share of the time just before in which any kernel ran."""


class Clocks(Record):
    """The GPU before anything was loaded, and the median of ``samples`` readings during the timed rounds."""

    before: Reading
    during: Reading
    samples: int


class DeviceMemory(Record):
    """The GPU memory of the process, with the CUDA context.

    ``method`` is where the numbers are from: ``process``, what the driver reports for it; ``difference``, what
    is in use on the GPU less what was before (right where nothing else runs there); ``device``, all that is in use.
    """

    method: Literal["process", "difference", "device"]
    before_mib: float | None
    """In use on the GPU before the engines were loaded."""
    loaded_mib: float
    """Once the engines are loaded."""
    ready_mib: float
    """After the warm-up: prompts encoded, text encoder released, buffers there."""
    peak_mib: float
    """The maximum over the readings during the rounds."""


class PartBench(Record):
    """One part alone, with its inputs already on the device; synchronised before each time is taken."""

    part: str
    images: int
    """Rows of features: images encoded, or seen by the decoder (N)."""
    prompts: int = 0
    """Rows of prompts (P); 0 for the vision encoder."""
    latency: Latency
    """Latency of one call."""
    stable: bool

    @property
    def per_image(self) -> float:
        """Milliseconds per image."""
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
    stable: bool
    """Whether the medians of the windows agree within a tenth."""
    masks_kept: float
    """Masks of a round, mean."""
    samples_ms: tuple[float, ...]


class Rounds(Record):
    """The measurements with one set of the runtime's options."""

    cameras: tuple[CameraBench, ...]
    parts: tuple[PartBench, ...]

    def camera(self, count: int) -> CameraBench | None:
        """Return the measurement with that number of cameras."""
        return next((one for one in self.cameras if one.cameras == count), None)

    def part(self, name: str, images: int, prompts: int = 0) -> PartBench | None:
        """Return the measurement of a part with these rows."""
        asked = (name, images, prompts)
        return next((one for one in self.parts if (one.part, one.images, one.prompts) == asked), None)


class BenchResult(Rounds, OfVariant):
    """One variant's benchmark."""

    driver: str | None = None
    toolchain: Toolchain
    threads: int | None
    prompts: int
    load_seconds: float
    memory_before_mib: float
    """Resident set before the engines were loaded."""
    memory_peak_mib: float
    """Largest resident set of the process."""
    device_memory: DeviceMemory | None = None
    """Null where the engines run on the CPU."""
    clocks: Clocks | None = None
    """Null where the driver does not report it."""
    without: dict[str, Rounds] = Field(default={})
    """The same with one option of the runtime off, by its name."""


class EngineCalls(Record):
    """Calls of one engine with inputs of one shape: how often in a round, and the latency of one alone."""

    part: str
    shape: dict[str, int]
    """Value of each dimension that differs from call to call."""
    calls: float
    """Calls in a round, mean."""
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
    kept: int | None
    """Best detections that each class keeps whatever their score; null: by score."""
    masks: float
    """Masks retained in a round, mean."""
    cameras: int
    pictures: tuple[tuple[int, int], ...]
    """Height and width, of each camera's frames."""
    frames: int
    """Frames of all cameras in the steady state."""
    images: float
    """Images in a round, mean."""
    seconds: float
    rounds: Latency
    stable: bool
    """Whether the medians of quarters of the run agree within a tenth."""
    frame: Latency
    fps: float
    fps_per_camera: float
    engines_ms: float
    ratio: float
    ratio_inside: float | None = None
    """The same over the time of these calls within the run; null on a GPU, where calls return at once."""
    calls: tuple[EngineCalls, ...]
    memory_peak_mib: float
    """Largest resident set of the process."""
    device_memory: DeviceMemory | None = None
    clocks: Clocks | None = None
    """With `busy_percent`, the median of readings during the run."""
    busy_percent: float | None = None
    """Mean of the readings during the run."""


class Measured(Record):
    """One variant as tables have it, raw: a table can be made again from it.

    ``status``, ``reason``, ``checks``, ``detections`` and ``found`` are the verdict's; ``predicted`` is the memory
    prediction of ``sam3-runtime info``; ``engines`` has the shareable facts of each part's record (:func:`facts_of`).
    """

    variant: str
    status: str
    reason: str
    checks: tuple[Check, ...] = ()
    detections: int = 0
    """Detections in the reference."""
    found: int | None = None
    """Detections of the variant; null in verdicts from before this was counted."""
    accuracy: dict[str, Any] | None = None
    """Accuracy on the data set of `accuracy:`, where there is one."""
    predicted: dict[str, Any] | None = None
    engines: dict[str, dict[str, Any]] = Field(default={})
    bench: BenchResult | None = None


_PRIVATE = {"command", "cache_key", "digest"}  # a command has paths in it
_LONG = {"inputs", "outputs", "dims"}


def facts_of(records: dict[str, EngineRecord]) -> dict[str, dict[str, Any]]:
    """Return the fields of each record that a table needs, without any path."""
    return {part: one.model_dump(mode="json", exclude=_PRIVATE | _LONG) for part, one in records.items()}


class BaselineRun(Record):
    """One way to run the model without this project, at one batch."""

    batch: int
    vision: Latency
    """One call of the vision encoder, with pixels on the device."""
    end_to_end: Latency
    """One round; masks at the image's size stay on the device."""
    stable: bool
    allocated_mib: float | None
    """Peak memory of PyTorch's tensors."""
    reserved_mib: float | None
    """Peak memory that PyTorch reserved on the GPU."""
    samples_ms: dict[str, tuple[float, ...]]


class BaselineWay(Record):
    """The model's own library as it is, or compiled. ``failed`` is the reason where there are no runs."""

    name: str
    attention: str
    runs: tuple[BaselineRun, ...] = ()
    compile_seconds: float | None = None
    """Time of the first calls at every batch."""
    failed: str | None = None


class Baseline(Record):
    """The model in its own library, measured on the same GPU: ``bench/baselines/r<resolution>.json``."""

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
    picture: tuple[int, int]
    """Height and width."""
    process_mib: float | None
    """Memory that the driver reports for this process at the end; null where it does not."""
    clocks: Clocks | None
    ways: tuple[BaselineWay, ...]
