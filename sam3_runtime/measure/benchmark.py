"""Measures a variant: end to end, each stage, each part alone, memory, and the GPU's clocks meanwhile.

A round is one image from each camera through :meth:`Pipeline.detect`, from preprocessing to postprocessing; images are
decoded beforehand and words are encoded in the warm-up, as in a deployment. Masks are then on the host, as bits where a
GPU made them. Warm-up and timed rounds are one function. Stages are timed in rounds of their own, since waiting for the
device at each border takes from it what it would do at once. Where the weights detect nothing (`random`), each prompt
keeps its best masks instead, so that postprocessing has work. Knows no backend; docs/measuring.md says what each
number has in it.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3.pipeline import THRESHOLD, Pipeline
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.benchmark_parts import measure_parts
from sam3_runtime.measure.gpu_monitor import MemoryGauge, Monitor, clocks_of
from sam3_runtime.measure.memory import process_mib
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.media.source_files import expand_images, is_video
from sam3_runtime.media.sources import load_image, read_video
from sam3_runtime.records.measurements import BenchResult, CameraBench, Rounds, latency, of_variant, stable

_FRAMES = 32  # decoded and kept in memory; rounds cycle through them


class StopWatch:
    """A stage hook that adds up the milliseconds of each stage, with ``wait`` called at its borders."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self._wait = wait

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.totals[stage] += (time.perf_counter() - started) * 1e3

    def take(self) -> dict[str, float]:
        totals, self.totals = dict(self.totals), defaultdict(float)
        return totals


def benchmark(directory: Path, settings: Mapping[str, Any], images: Sequence[Image] | None = None) -> BenchResult:
    """Measure the variant in ``directory`` with the settings of ``bench:`` and the device's name.

    On a GPU everything is measured once more without CUDA graphs. ``images`` replaces the ``source`` of the settings.
    Raises :class:`SourceError` when that holds no image.
    """
    frames = images or _frames(settings["source"])
    before = process_mib("VmRSS") or 0.0
    gauge = MemoryGauge()
    started = time.perf_counter()
    with load(directory, threads=settings["threads"]) as pipeline:
        load_seconds = time.perf_counter() - started
        on_gpu = pipeline.device.memory() is not None
        gauge.mark("loaded", pipeline.device.memory)
        pipeline.detect(frames[: pipeline.batch], settings["prompts"], threshold=THRESHOLD)
        gauge.mark("ready", pipeline.device.memory)
        with Monitor(enabled=on_gpu) as monitor:
            cameras = _measure_cameras(pipeline, frames, settings)
        gauge.mark("peak", pipeline.device.memory)
        parts = measure_parts(pipeline, frames, settings) if settings["parts"] else ()
        config, records = pipeline.config, pipeline.records
    peak, gpu = process_mib("VmHWM") or 0.0, find_gpu()
    return BenchResult(
        **of_variant(config, records, settings["device"]),
        driver=gpu.driver if on_gpu and gpu else None,
        toolchain=records["decoder"].toolchain,
        threads=settings["threads"],
        prompts=len(settings["prompts"]),
        load_seconds=round(load_seconds, 3),
        memory_before_mib=round(before, 1),
        memory_peak_mib=round(peak, 1),
        device_memory=gauge.result(monitor.readings) if on_gpu else None,
        clocks=clocks_of(gauge.before, monitor.readings) if on_gpu else None,
        cameras=cameras,
        parts=parts,
        without={"cuda_graphs": _without_cuda_graphs(directory, frames, settings)} if on_gpu else {},
    )


def _without_cuda_graphs(directory: Path, frames: Sequence[Image], settings: Mapping[str, Any]) -> Rounds:
    with load(directory, threads=settings["threads"], cuda_graphs=False) as pipeline:
        cameras = _measure_cameras(pipeline, frames, settings)
        return Rounds(cameras=cameras, parts=measure_parts(pipeline, frames, settings) if settings["parts"] else ())


def _frames(sources: Sequence[str]) -> list[Image]:
    frames: list[Image] = []
    for source in sources:
        if is_video(source):
            with read_video(source) as video:
                frames += itertools.islice(video, _FRAMES)
        else:
            frames += [load_image(image.path) for image in expand_images([source])]
    if not frames:
        raise SourceError(f"bench.source holds no image: {', '.join(sources)}", "name a video or images")
    return frames[:_FRAMES]


def _measure_cameras(
    pipeline: Pipeline, frames: Sequence[Image], settings: Mapping[str, Any]
) -> tuple[CameraBench, ...]:
    top = None if _detects(pipeline, frames, settings["prompts"]) else settings["masks"]
    return tuple(_measure(pipeline, frames, count, top, settings) for count in settings["cameras"])


def _measure(
    pipeline: Pipeline, frames: Sequence[Image], cameras: int, top: int | None, settings: Mapping[str, Any]
) -> CameraBench:
    """Rounds of ``cameras`` images: a warm-up, the timed windows, and a window whose stages are timed."""
    feed = itertools.cycle(frames)
    watch = StopWatch(pipeline.device.synchronize)
    kept: list[int] = []

    def one_round(stages: StopWatch | None = None) -> None:
        found = pipeline.detect(list(itertools.islice(feed, cameras)), settings["prompts"], top=top, stages=stages)
        kept.append(sum(len(one.scores) for image in found for one in image))

    windows = timed_windows(one_round, settings, pipeline.device.synchronize)
    samples = [sample for times in windows for sample in times]
    masks = float(np.mean(kept[-len(samples) :]))
    stages = []
    for _ in range(settings["rounds"]):
        one_round(watch)
        stages.append(watch.take())
    return CameraBench(
        cameras=cameras,
        end_to_end=latency(samples),
        stages={name: latency([stage[name] for stage in stages]) for name in stages[0]},
        fps_per_camera=round(1e3 / float(np.median(samples)), 3),
        stable=stable(windows),
        masks_kept=round(masks, 2),
        samples_ms=tuple(round(sample, 3) for sample in samples),
    )


def _detects(pipeline: Pipeline, frames: Sequence[Image], prompts: Sequence[str]) -> bool:
    found = pipeline.detect([frames[0]], prompts, threshold=THRESHOLD)
    return any(len(one.scores) for one in found[0])
