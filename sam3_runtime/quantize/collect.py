"""Measures the ranges of a graph's activations in PyTorch, on frames of a video or on pictures.

The module that runs is the one that was exported, in float32, and each frame goes through the runtime's own
preprocessing. What is counted is the input of every Linear and Conv2d. Knows nothing of how an 8-bit graph looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.wording import counted
from sam3_runtime.families import exporter
from sam3_runtime.families.base import RESOLUTION
from sam3_runtime.graphs.read import Graph, read_graph
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.quantize.frames import Frames, measured_on, prepared
from sam3_runtime.quantize.ranges import Histogram, find_ranges
from sam3_runtime.quantize.record import Calibration
from sam3_runtime.records.records import CheckpointLock, Preprocessing

Announce = Callable[[str], None]

_PROGRESS_EVERY = 10.0  # seconds
_THREADS = 16  # frames prepared ahead, 20 MB each at 1008
_MEASURED = (nn.Linear, nn.Conv2d)
_LEFT_OUT = (nn.ConvTranspose2d,)


def measure_scales(
    lock: CheckpointLock,
    graph: Path,
    output: Path,
    params: Mapping[str, Any],
    announce: Announce = print,
) -> None:
    """Measure the ranges of ``graph`` and write them to ``output``, a :class:`Calibration`.

    ``params`` are ``source`` (a list), ``frames``, ``algorithm`` and, for percentiles, ``percentile``. ``announce``
    takes what people who wait should see: on a CPU, how long it will take. Raises :class:`CalibrationError` when there
    is no usable frame, or when the graph is not of this checkpoint.
    """
    started = time.monotonic()
    facts = read_graph(graph)
    if facts.checkpoint_digest != lock.digest:
        raise CalibrationError(
            f"{graph} is of checkpoint {facts.checkpoint_digest[:12]}, and checkpoint.lock of {lock.digest[:12]}",
            f"delete {graph} and run snakemake {graph}",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolution = _resolution(facts, graph)
    module = exporter(lock.family, "graph").module_of(facts.part.name, lock, facts.axes, {}).to(device)
    observer = Observer(module)
    preprocessing = facts.preprocessing
    frames = Frames(params["source"], params["frames"])
    _run(module, observer, frames, resolution, preprocessing, device, announce)
    amax, without = observer.finish(params["algorithm"], params.get("percentile"))
    result = Calibration(
        **measured_on(frames, facts, preprocessing, params, started),
        amax=amax,
        without=without,
    ).sealed()
    result.write(output)
    print(f"{result.algorithm} over {counted(result.frames, 'frame')}, {result.seconds:.0f} s: {result.summary()}")


class Observer:
    """Counts what goes into each Linear and Conv2d of ``module`` while it runs, until :meth:`finish`."""

    def __init__(self, module: nn.Module) -> None:
        self._histograms: dict[str, Histogram] = {}
        self._without: dict[str, str] = {}
        self._hooks = []
        for name, layer in module.named_modules():
            if isinstance(layer, _MEASURED):
                self._histograms[name] = Histogram()
                self._hooks.append(layer.register_forward_pre_hook(self._hook(name)))
            elif isinstance(layer, _LEFT_OUT):
                self._without[name] = f"{type(layer).__name__} stays in float"

    def _hook(self, name: str) -> Callable[[nn.Module, Any], None]:
        def count(_module: nn.Module, inputs: Any) -> None:
            try:
                self._histograms[name].add(inputs[0])
            except ValueError:
                raise _overflow(name) from None

        return count

    def check(self) -> None:
        """:class:`CalibrationError` where what went into a layer was not finite. Waits for the GPU."""
        largest = torch.stack([histogram.largest for histogram in self._histograms.values()])
        for name, is_finite in zip(self._histograms, largest.isfinite().tolist(), strict=True):
            if not is_finite:
                raise _overflow(name)

    def finish(self, algorithm: Any, percentile: float | None) -> tuple[dict[str, float], dict[str, str]]:
        """Stop counting. Returns the range of each layer, and why the others have none."""
        for hook in self._hooks:
            hook.remove()
        found = find_ranges(list(self._histograms.values()), algorithm, percentile)
        ranges = dict(zip(self._histograms, found, strict=True))
        zero = {name: "its input was zero on every frame" for name, amax in ranges.items() if amax == 0}
        return {name: amax for name, amax in ranges.items() if amax > 0}, self._without | zero


def _overflow(layer: str) -> CalibrationError:
    return CalibrationError(
        f"the input of {layer} is not finite: the model overflows in float32",
        "check the checkpoint's weights; no range can be measured on this one",
    )


def _resolution(facts: Graph, graph: Path) -> int:
    if RESOLUTION not in facts.axes:
        raise CalibrationError(f"{graph} does not say its resolution", f"delete it and run snakemake {graph}")
    return facts.axes[RESOLUTION]


@contextmanager
def _true_float32(device: torch.device) -> Iterator[None]:
    """Convolutions without TF32, which PyTorch allows them on a GPU (and matrix products not): ranges are measured in
    the type that is said."""
    if device.type == "cuda":
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    else:
        yield


@torch.inference_mode()
def _run(
    module: nn.Module,
    observer: Observer,
    frames: Frames,
    resolution: int,
    preprocessing: Preprocessing,
    device: torch.device,
    announce: Announce,
) -> None:
    """Run the encoder on every frame, one at a time; say how long it will take, and how far it is.

    One frame at 1008 keeps a GPU busy, and needs a fraction of the memory of several. Meanwhile the processor, which
    has nothing else to do then, prepares the next ones.
    """
    expected = frames.expected()
    print(f"measuring on {device.type}, {counted(expected, 'frame')} at {resolution}", flush=True)
    threads = 0 if device.type == "cpu" else min(os.cpu_count() or 1, _THREADS)
    started = said = time.monotonic()
    pixels_of = prepared(frames, lambda image: preprocess([image], resolution, preprocessing), threads)
    for done, pixels in enumerate(pixels_of, start=1):
        if done == 1:
            started = time.monotonic()  # counting the frames of a video is done by now
        with _true_float32(device):
            module(torch.from_numpy(pixels).to(device))
        observer.check()
        now = time.monotonic()
        if done == 1 and device.type == "cpu":
            each = now - started
            announce(
                f"calibration of r{resolution} on the CPU: about {_duration(each * expected)} "
                f"({counted(expected, 'frame')}, {each:.1f} s for the first)"
            )
        elif now - said > _PROGRESS_EVERY:
            left = (now - started) / done * max(expected - done, 0)
            print(f"  {done} of {counted(expected, 'frame')}, {_duration(left)} left", flush=True)
            said = now
    shortage = frames.shortage()
    if shortage:
        announce(shortage)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
