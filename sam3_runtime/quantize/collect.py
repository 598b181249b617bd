"""Measures the ranges of a vision encoder's activations in PyTorch, on frames of a video or on pictures.

The module that runs is the one that was exported, in float32, and each frame goes through the runtime's own
preprocessing. What is counted is the input of every Linear and Conv2d. Knows nothing of how an 8-bit graph looks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sam3_runtime.builders.graph import Graph, read_graph
from sam3_runtime.config import CheckpointLock, Preprocessing
from sam3_runtime.errors import CalibrationError, SourceError
from sam3_runtime.export.graph import build_module
from sam3_runtime.preprocess import Image, preprocess
from sam3_runtime.quantize.ranges import Histogram, find_ranges
from sam3_runtime.quantize.record import Calibration
from sam3_runtime.sources import evenly_drawn_frames, expand_images, is_video, read_video

Announce = Callable[[str], None]

_PROGRESS_EVERY = 10.0  # seconds
_MEASURED = (nn.Linear, nn.Conv2d)
_LEFT_OUT = (nn.ConvTranspose2d,)


def measure_scales(
    lock: CheckpointLock,
    graph: Path,
    output: Path,
    params: Mapping[str, Any],
    announce: Announce = print,
) -> None:
    """Measure the ranges of the vision encoder ``graph`` and write them to ``output``, a :class:`Calibration`.

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
    module = build_module("vision-encoder", lock, resolution=facts.resolution).to(device)
    observer = Observer(module)
    preprocessing = Preprocessing()
    frames = _Frames(params["source"], params["frames"])
    _run(module, frames, _resolution(facts, graph), preprocessing, device, announce)
    amax, without = observer.finish(params["algorithm"], params.get("percentile"))
    result = Calibration(
        key="",
        onnx_sha256=facts.sha256,
        checkpoint_digest=lock.digest,
        preprocessing=preprocessing,
        frames=frames.used,
        frames_asked=frames.asked,
        frames_sha256=frames.digest.hexdigest(),
        algorithm=params["algorithm"],
        percentile=params.get("percentile"),
        amax=amax,
        without=without,
        seconds=round(time.monotonic() - started, 1),
    ).sealed()
    result.write(output)
    print(f"{result.algorithm} over {result.frames} frames, {result.seconds:.0f} s: {result.summary()}")


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
            except ValueError as error:
                raise CalibrationError(
                    f"the input of {name} is {error}: the encoder overflows in float32",
                    "check the checkpoint's weights; no range can be measured on this one",
                ) from None

        return count

    def finish(self, algorithm: Any, percentile: float | None) -> tuple[dict[str, float], dict[str, str]]:
        """Stop counting. Returns the range of each layer, and why the others have none."""
        for hook in self._hooks:
            hook.remove()
        found = find_ranges(list(self._histograms.values()), algorithm, percentile)
        ranges = dict(zip(self._histograms, found, strict=True))
        zero = {name: "its input was zero on every frame" for name, amax in ranges.items() if amax == 0}
        return {name: amax for name, amax in ranges.items() if amax > 0}, self._without | zero


class _Frames:
    """The frames of a draw, once; counts and digests what it hands out."""

    def __init__(self, source: Sequence[str], asked: int) -> None:
        self._source = source
        self.asked = asked
        self.used = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Image]:
        try:
            for _, image in evenly_drawn_frames(self._source, self.asked):
                self.digest.update(repr(image.shape).encode())
                self.digest.update(np.ascontiguousarray(image).data)
                self.used += 1
                yield image
        except SourceError as error:
            raise CalibrationError(f"calibration.source: {error}") from None
        if self.used == 0:
            raise CalibrationError(
                f"calibration.source: no frame could be read from {', '.join(self._source)}",
                "name a video, a picture or a folder of pictures",
            )

    def expected(self) -> int:
        """How many there will be, as far as file lists and headers tell."""
        try:
            pictures = len(expand_images(source for source in self._source if not is_video(source)))
            total = pictures + sum(_promised(source) for source in self._source if is_video(source))
        except SourceError as error:
            raise CalibrationError(f"calibration.source: {error}") from None
        return min(total or self.asked, self.asked)


def _promised(video: str) -> int:
    with read_video(video) as opened:
        return opened.info.frames or 0


def _resolution(facts: Graph, graph: Path) -> int:
    if facts.resolution is None:
        raise CalibrationError(f"{graph} does not say its resolution", f"delete it and run snakemake {graph}")
    return facts.resolution


@torch.inference_mode()
def _run(
    module: nn.Module,
    frames: _Frames,
    resolution: int,
    preprocessing: Preprocessing,
    device: torch.device,
    announce: Announce,
) -> None:
    """Run the encoder on every frame, one at a time; say how long it will take, and how far it is."""
    expected = frames.expected()
    print(f"measuring on {device.type}, {expected} frames at {resolution}", flush=True)
    started = said = time.monotonic()
    for image in frames:
        if frames.used == 1:
            started = time.monotonic()  # counting the frames of a video is done by now
        pixels = preprocess([image], resolution, preprocessing)
        module(torch.from_numpy(pixels).to(device))
        now = time.monotonic()
        if frames.used == 1 and device.type == "cpu":
            each = now - started
            announce(
                f"calibration of r{resolution} on the CPU: about {_duration(each * expected)} "
                f"({expected} frames, {each:.1f} s for the first)"
            )
        elif now - said > _PROGRESS_EVERY:
            left = (now - started) / frames.used * max(expected - frames.used, 0)
            print(f"  {frames.used} of {expected} frames, {_duration(left)} left", flush=True)
            said = now
    if frames.used < frames.asked:
        announce(f"calibration.source has {frames.used} of the {frames.asked} frames asked for: all of them are used")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
