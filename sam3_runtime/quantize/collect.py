"""Measures the ranges of a graph's activations in PyTorch, on frames of a video or on images.

The module that runs is the exported one, in float32, and frames go through the runtime's own preprocessing. The inputs
of every Linear and Conv2d are measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.wording import counted
from sam3_runtime.families import exporter
from sam3_runtime.families.base import RESOLUTION
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.plan.settings import Algorithm
from sam3_runtime.quantize.frames import Frames, Log, with_progress
from sam3_runtime.quantize.ranges import Histogram, find_ranges
from sam3_runtime.quantize.record import Calibration
from sam3_runtime.records.records import CheckpointLock

_THREADS = 16  # frames prepared ahead, 20 MB each at 1008
_MEASURED = (nn.Linear, nn.Conv2d)
_LEFT_OUT = (nn.ConvTranspose2d,)


def measure_scales(
    lock: CheckpointLock, graph: Path, output: Path, params: Mapping[str, Any], log: Log = print
) -> None:
    """Measure the ranges of ``graph`` and write them to ``output``, a :class:`Calibration`.

    ``params`` are ``source`` (a list), ``frames``, ``algorithm`` and, for percentiles, ``percentile``. ``log`` gets
    messages for people who wait, such as the remaining time. Frames are processed one at a time, as one frame at 1008
    keeps a GPU busy and needs a fraction of the memory of several. Raises :class:`CalibrationError` when no frame can
    be used, when an activation is not finite, or when the graph was exported from another checkpoint.
    """
    started = time.monotonic()
    facts = read_graph(graph)
    if facts.checkpoint_digest != lock.digest:
        raise CalibrationError(
            f"{graph} is of checkpoint {facts.checkpoint_digest[:12]}, and checkpoint.lock of {lock.digest[:12]}",
            f"delete {graph} and run snakemake {graph}",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = exporter(lock.family, "graph").module_of(facts.part.name, lock, facts.axes, {}).to(device)
    observer = Observer(module)
    frames = Frames(params["source"], params["frames"], log)
    label = f"calibration of r{facts.axes[RESOLUTION]} on the {'GPU' if device.type == 'cuda' else 'CPU'}"
    pixels = frames.pixels(facts, _THREADS if device.type == "cuda" else 0)
    # PyTorch allows TF32 to convolutions by default, and not to matrix products.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for frame in with_progress(pixels, frames.expected(), label, log):
            module(torch.from_numpy(frame).to(device))
            observer.check()
    amax, without = observer.finish(params["algorithm"], params.get("percentile"))
    result = Calibration(**frames.measurement(facts, params, started), amax=amax, without=without).sealed()
    result.write(output)
    print(f"{result.algorithm} over {counted(result.frames, 'frame')}, {result.seconds:.0f} s: {result.summary()}")


class Observer:
    """Counts the inputs of each Linear and Conv2d of ``module`` while it runs, until :meth:`finish`."""

    def __init__(self, module: nn.Module) -> None:
        layers = dict(module.named_modules())
        measured = {name: layer for name, layer in layers.items() if isinstance(layer, _MEASURED)}
        self._histograms = {name: Histogram() for name in measured}
        self._hooks = [
            layer.register_forward_pre_hook(partial(_count, self._histograms[name])) for name, layer in measured.items()
        ]
        self._without = {
            name: f"{type(layer).__name__} stays in float"
            for name, layer in layers.items()
            if isinstance(layer, _LEFT_OUT)
        }

    def check(self) -> None:
        """Raise :class:`CalibrationError` where an input of a layer was not finite. Synchronises with a GPU."""
        largest = torch.stack([histogram.largest for histogram in self._histograms.values()])
        for name, is_finite in zip(self._histograms, largest.isfinite().tolist(), strict=True):
            if not is_finite:
                raise CalibrationError(
                    f"the input of {name} is not finite: the model overflows in float32",
                    "check the checkpoint's weights; no range can be measured on this one",
                )

    def finish(self, algorithm: Algorithm, percentile: float | None) -> tuple[dict[str, float], dict[str, str]]:
        """Stop counting; return the range of each layer, and the reason for each layer without one."""
        for hook in self._hooks:
            hook.remove()
        found = find_ranges(list(self._histograms.values()), algorithm, percentile)
        ranges = dict(zip(self._histograms, found, strict=True))
        zero = {name: "its input was zero on every frame" for name, amax in ranges.items() if amax == 0}
        return {name: amax for name, amax in ranges.items() if amax > 0}, self._without | zero


def _count(histogram: Histogram, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    histogram.add(inputs[0])
