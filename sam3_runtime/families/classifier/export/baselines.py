"""Measures what a user has without this project: timm's model as it is, and the same with ``torch.compile``.

On the GPU where there is one, in float16 with channels last; otherwise on the CPU in float32. Timed are the model
(pixels on the device) and a round end to end: pictures in the host's memory go through timm's own transform there, as
timm is deployed, through the model, and the five best classes of each come back. The device is waited for before each
reading of the clock. Times do not depend on what is seen, so pictures are random. Judges nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import timm
import torch
from PIL import Image as Pillow
from torch import Tensor

from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.families.classifier.export.weights import load_model, transform_of
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.gpu_monitor import Monitor, clocks_of, process_mib, read
from sam3_runtime.measure.memory import MIB
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.records.measurements import Baseline, BaselineRun, BaselineWay, latency, shareable, stable
from sam3_runtime.records.records import CheckpointLock

PICTURE = (720, 1280)
"""Height and width of the pictures."""
Precision = Literal["float16", "float32"]


class Contender:
    """timm's model on its device, behind timm's transform."""

    def __init__(self, lock: CheckpointLock, resolution: int, device: torch.device, precision: Precision) -> None:
        self._dtype, self.device = getattr(torch, precision), device
        self._format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._transform = transform_of(lock, resolution)
        self.model = load_model(lock, resolution).to(device=device, dtype=self._dtype, memory_format=self._format)
        fused = any(getattr(module, "fused_attn", False) for module in self.model.modules())
        self.attention = "sdpa" if fused else "none"

    def compile(self, backend: str) -> None:
        """Compile the model in place, each shape for itself."""
        self.model.compile(mode="default", dynamic=False, backend=backend)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def preprocess(self, pictures: Sequence[Image]) -> Tensor:
        """RGB uint8 [H, W, 3] → [B, 3, R, R] on the device."""
        pixels = torch.stack([self._transform(Pillow.fromarray(picture)) for picture in pictures])
        return pixels.to(device=self.device, dtype=self._dtype, memory_format=self._format)

    def classify(self, pictures: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """Probabilities and indices [B, 5] of the best classes, on the host."""
        logits = self.model(self.preprocess(pictures))
        best = logits.float().softmax(dim=1).topk(min(5, logits.shape[1]), dim=1)
        return best.values.cpu(), best.indices.cpu()


@torch.no_grad()
def measure_baseline(
    lock: CheckpointLock,
    location: str,
    resolution: int,
    settings: Mapping[str, Any],
    *,
    compiled: bool = True,
    precision: Precision | None = None,
    backend: str = "inductor",
) -> Baseline:
    """Measure both ways at ``resolution``, at each of ``settings["batches"]`` pictures a round.

    ``lock`` names the weights, ``location`` says where they are. Of ``settings``, ``warmup``, ``windows`` and
    ``rounds`` count here. ``backend`` is ``torch.compile``'s.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or ("float16" if device.type == "cuda" else "float32")
    before = read()
    contender = Contender(lock.at(location), resolution, device, precision)
    with Monitor(enabled=device.type == "cuda") as monitor:
        ways = [_measure_way(contender, "timm", settings, None)]
        if compiled:
            ways.append(_measure_way(contender, "torch.compile", settings, backend))
    gpu = find_gpu() if device.type == "cuda" else None
    return Baseline(
        resolution=resolution,
        device=gpu.name if gpu else cpu_name(),
        driver=gpu.driver if gpu else None,
        precision=precision,
        libraries={"torch": torch.__version__, "timm": timm.__version__},
        checkpoint=shareable(lock.checkpoint),
        checkpoint_digest=lock.digest,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        prompts=0,
        masks=0,
        picture=PICTURE,
        process_mib=process_mib() if gpu else None,
        clocks=clocks_of(before, monitor.readings) if gpu else None,
        ways=tuple(ways),
    )


def _measure_way(contender: Contender, name: str, settings: Mapping[str, Any], backend: str | None) -> BaselineWay:
    pictures = list(np.random.default_rng(0).integers(0, 256, (max(settings["batches"]), *PICTURE, 3), np.uint8))
    started = time.perf_counter()
    try:
        if backend:
            contender.compile(backend)
            for batch in settings["batches"]:
                contender.classify(pictures[:batch])
            contender.wait()
        seconds = time.perf_counter() - started
        runs = tuple(_measure_run(contender, pictures[:batch], settings) for batch in settings["batches"])
    except RuntimeError as error:  # PyTorch's compiler and its allocator raise nothing narrower
        print(f"{name} did not run: {error}")
        return BaselineWay(name=name, attention=contender.attention, failed=type(error).__name__)
    took = round(seconds, 1) if backend else None
    return BaselineWay(name=name, attention=contender.attention, runs=runs, compile_seconds=took)


def _measure_run(contender: Contender, pictures: Sequence[Image], settings: Mapping[str, Any]) -> BaselineRun:
    on_gpu = contender.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    pixels = contender.preprocess(pictures)
    samples = {
        "vision": timed_windows(lambda: contender.model(pixels), settings, contender.wait),
        "end_to_end": timed_windows(lambda: contender.classify(pictures), settings, contender.wait),
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
