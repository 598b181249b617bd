"""Times a family's PyTorch model without this project: the library's own model, and the same with ``torch.compile``.

Runs on a GPU where there is one, otherwise on the CPU. The device is synchronised before each reading of the clock.
Times do not depend on the content of images, so images are random. Independent of the model; measures without limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, Protocol

import numpy as np
import torch

from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.gpu_monitor import clocks_of, monitor, process_gpu_mib, read
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.records.measurements import Baseline, BaselineRun, BaselineWay, latency, shareable, stable
from sam3_runtime.records.memory import MIB
from sam3_runtime.records.records import CheckpointLock

Precision = Literal["float16", "float32"]
IMAGE_SIZE = (720, 1280)
"""Height and width of the images."""


class Contender(Protocol):
    """A model on its ``device``. ``attention`` names its implementation of attention."""

    device: torch.device
    attention: str

    def compile(self, backend: str) -> None:
        """Compile the model in place, for static shapes."""

    def preprocess(self, images: Sequence[Image]) -> Any:
        """Convert RGB uint8 images [H, W, 3] of one size to the model's input on its device."""

    def encode(self, pixels: Any) -> Any:
        """Run the model's main part, which is one engine here."""

    def answer(self, images: Sequence[Image]) -> Any:
        """Run one round end to end."""


@dataclass(frozen=True)
class Options:
    """Whether to measure ``compiled`` by ``backend`` too; ``precision`` None is float16 on a GPU, else float32."""

    compiled: bool = True
    precision: Precision | None = None
    backend: str = "inductor"


DEFAULTS = Options()


def measure(
    locked: CheckpointLock,
    make: Callable[[torch.device, Precision], Contender],
    library: Any,
    *,
    resolution: int,
    settings: Mapping[str, Any],
    options: Options,
) -> Baseline:
    """Time the models that ``make`` returns, of the Python package ``library``, as they are and compiled.

    Of ``settings``, those of ``bench:``, this uses ``batches`` (images per round), ``warmup``, ``windows`` and
    ``rounds``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = options.precision or ("float16" if device.type == "cuda" else "float32")
    before = read()
    model = make(device, precision)
    images = list(np.random.default_rng(0).integers(0, 256, (max(settings["batches"]), *IMAGE_SIZE, 3), np.uint8))
    with monitor(enabled=device.type == "cuda") as readings:
        ways = [_measure_way(model, library.__name__, images, settings, None)]
        if options.compiled:
            ways.append(_measure_way(model, "torch.compile", images, settings, options.backend))
    gpu = find_gpu() if device.type == "cuda" else None
    return Baseline(
        resolution=resolution,
        device=gpu.name if gpu else cpu_name(),
        driver=gpu.driver if gpu else None,
        precision=precision,
        libraries={module.__name__: module.__version__ for module in (torch, library)},
        checkpoint=shareable(locked.checkpoint),
        checkpoint_digest=locked.digest,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        prompts=settings.get("prompts", 0),
        masks=settings.get("masks", 0),
        picture=IMAGE_SIZE,
        process_mib=process_gpu_mib() if gpu else None,
        clocks=clocks_of(before, readings) if gpu else None,
        ways=tuple(ways),
    )


def _synchronize(model: Contender) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _measure_way(
    model: Contender, name: str, images: Sequence[Image], settings: Mapping[str, Any], backend: str | None
) -> BaselineWay:
    started = time.perf_counter()
    try:
        if backend:
            model.compile(backend)
            for batch in settings["batches"]:
                model.answer(images[:batch])
            _synchronize(model)
        seconds = time.perf_counter() - started
        runs = tuple(_measure_run(model, images[:batch], settings) for batch in settings["batches"])
    except RuntimeError as error:  # PyTorch's compiler and its allocator raise nothing narrower
        print(f"{name} failed: {error}")
        return BaselineWay(name=name, attention=model.attention, failed=type(error).__name__)
    compile_seconds = round(seconds, 1) if backend else None
    return BaselineWay(name=name, attention=model.attention, runs=runs, compile_seconds=compile_seconds)


def _measure_run(model: Contender, images: Sequence[Image], settings: Mapping[str, Any]) -> BaselineRun:
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    pixels = model.preprocess(images)
    samples = {
        "vision": timed_windows(lambda: model.encode(pixels), settings, lambda: _synchronize(model)),
        "end_to_end": timed_windows(lambda: model.answer(images), settings, lambda: _synchronize(model)),
    }
    flat = {name: [sample for window in windows for sample in window] for name, windows in samples.items()}
    return BaselineRun(
        batch=len(images),
        vision=latency(flat["vision"]),
        end_to_end=latency(flat["end_to_end"]),
        stable=all(stable(windows) for windows in samples.values()),
        allocated_mib=round(torch.cuda.max_memory_allocated() / MIB, 1) if on_gpu else None,
        reserved_mib=round(torch.cuda.max_memory_reserved() / MIB, 1) if on_gpu else None,
        samples_ms={name: tuple(round(sample, 3) for sample in values) for name, values in flat.items()},
    )
