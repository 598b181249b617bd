"""Times a family's PyTorch model as it is, and with ``torch.compile``: what a user has without this project.

On the GPU where there is one, otherwise on the CPU. The device is waited for before each reading of the clock. Times do
not depend on what is seen, so pictures are random. Knows no model, and judges nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.measure.gpu_monitor import clocks_of, monitor, process_gpu_mib, read
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.records.measurements import Baseline, BaselineRun, BaselineWay, latency, shareable, stable
from sam3_runtime.records.memory import MIB
from sam3_runtime.records.records import CheckpointLock

Precision = Literal["float16", "float32"]
Picture = NDArray[np.uint8]


class Timed(Protocol):
    """A model on its device. ``attention`` is what it attends with."""

    device: torch.device
    attention: str

    def compile(self, backend: str) -> None:
        """Compile it in place, each shape for itself."""

    def preprocess(self, pictures: Sequence[Picture]) -> Any:
        """RGB uint8 [H, W, 3] of one size → what it sees, on the device."""

    def see(self, pixels: Any) -> Any:
        """What an engine's main part computes."""

    def answer(self, pictures: Sequence[Picture]) -> Any:
        """One round end to end."""


def measure(
    locked: CheckpointLock,
    make: Callable[[torch.device, Precision], Timed],
    library: str,
    *,
    resolution: int,
    settings: Mapping[str, Any],
    picture: tuple[int, int],
    versions: Mapping[str, str],
    compiled: bool,
    precision: Precision | None,
    backend: str,
) -> Baseline:
    """Measure both ways at ``resolution``, at each of ``settings["batches"]`` pictures a round.

    Of ``settings``, ``warmup``, ``windows`` and ``rounds`` count here. ``library`` is what the model as it is is
    called, ``picture`` the height and width of a picture; ``precision`` is float16 on a GPU when left out, and
    ``backend`` is ``torch.compile``'s.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or ("float16" if device.type == "cuda" else "float32")
    before = read()
    model = make(device, precision)
    pictures = list(np.random.default_rng(0).integers(0, 256, (max(settings["batches"]), *picture, 3), np.uint8))
    with monitor(enabled=device.type == "cuda") as readings:
        ways = [_measure_way(model, library, pictures, settings, None)]
        if compiled:
            ways.append(_measure_way(model, "torch.compile", pictures, settings, backend))
    gpu = find_gpu() if device.type == "cuda" else None
    return Baseline(
        resolution=resolution,
        device=gpu.name if gpu else cpu_name(),
        driver=gpu.driver if gpu else None,
        precision=precision,
        libraries={"torch": torch.__version__, **versions},
        checkpoint=shareable(locked.checkpoint),
        checkpoint_digest=locked.digest,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        prompts=settings.get("prompts", 0),
        masks=settings.get("masks", 0),
        picture=picture,
        process_mib=process_gpu_mib() if gpu else None,
        clocks=clocks_of(before, readings) if gpu else None,
        ways=tuple(ways),
    )


def _wait(model: Timed) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _measure_way(
    model: Timed, name: str, pictures: Sequence[Picture], settings: Mapping[str, Any], backend: str | None
) -> BaselineWay:
    started = time.perf_counter()
    try:
        if backend:
            model.compile(backend)
            for batch in settings["batches"]:
                model.answer(pictures[:batch])
            _wait(model)
        seconds = time.perf_counter() - started
        runs = tuple(_measure_run(model, pictures[:batch], settings) for batch in settings["batches"])
    except RuntimeError as error:  # PyTorch's compiler and its allocator raise nothing narrower
        print(f"{name} did not run: {error}")
        return BaselineWay(name=name, attention=model.attention, failed=type(error).__name__)
    took = round(seconds, 1) if backend else None
    return BaselineWay(name=name, attention=model.attention, runs=runs, compile_seconds=took)


def _measure_run(model: Timed, pictures: Sequence[Picture], settings: Mapping[str, Any]) -> BaselineRun:
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    pixels = model.preprocess(pictures)
    samples = {
        "vision": timed_windows(lambda: model.see(pixels), settings, lambda: _wait(model)),
        "end_to_end": timed_windows(lambda: model.answer(pictures), settings, lambda: _wait(model)),
    }
    flat = {name: [sample for window in windows for sample in window] for name, windows in samples.items()}
    return BaselineRun(
        batch=len(pictures),
        vision=latency(flat["vision"]),
        end_to_end=latency(flat["end_to_end"]),
        stable=all(stable(windows) for windows in samples.values()),
        allocated_mib=round(torch.cuda.max_memory_allocated() / MIB, 1) if on_gpu else None,
        reserved_mib=round(torch.cuda.max_memory_reserved() / MIB, 1) if on_gpu else None,
        samples_ms={name: tuple(round(sample, 3) for sample in values) for name, values in flat.items()},
    )
