"""Measures a variant: time of each stage and end to end, memory, and what the process was loaded with.

A round is one image from each camera through :meth:`Pipeline.detect`, from preprocessing to postprocessing; images are
decoded beforehand and words are encoded in the warm-up, as in a deployment. Warm-up and timed rounds are one function.
Where the weights detect nothing (`random`), each prompt keeps its best masks instead, so that postprocessing has work.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sam3_runtime.config import BenchResult, CameraBench, Latency
from sam3_runtime.errors import SourceError
from sam3_runtime.memory import process_mib
from sam3_runtime.pipeline import THRESHOLD, Pipeline, load
from sam3_runtime.preprocess import Image
from sam3_runtime.sources import expand_images, is_video, load_image, read_video

_STABLE = 0.1  # windows whose medians differ by more than this share are no measurement
_FRAMES = 32  # decoded and kept in memory; rounds cycle through them


class StopWatch:
    """A stage hook that adds up the milliseconds of each stage."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.totals[stage] += (time.perf_counter() - started) * 1e3

    def take(self) -> dict[str, float]:
        totals, self.totals = dict(self.totals), defaultdict(float)
        return totals


def latency(samples: Sequence[float]) -> Latency:
    """Summary of samples in milliseconds."""
    values = np.asarray(samples)
    p95, p99 = np.percentile(values, [95, 99])
    return Latency(
        median=round(float(np.median(values)), 3),
        mean=round(float(values.mean()), 3),
        p95=round(float(p95), 3),
        p99=round(float(p99), 3),
        n=len(samples),
    )


def benchmark(directory: Path, settings: Mapping[str, Any], images: Sequence[Image] | None = None) -> BenchResult:
    """Measure the variant in ``directory`` with the settings of ``bench:`` and the device's name.

    ``images`` replaces the ``source`` of the settings. Raises :class:`SourceError` when that holds no image.
    """
    frames = images or _frames(settings["source"])
    before = process_mib("VmRSS") or 0.0
    started = time.perf_counter()
    with load(directory, threads=settings["threads"]) as pipeline:
        load_seconds = time.perf_counter() - started
        cameras = tuple(_measure(pipeline, frames, count, settings) for count in settings["cameras"])
        config, records = pipeline.config, pipeline.records
    return BenchResult(
        variant=config.variant,
        backend=config.backend,
        device=settings["device"],
        toolchain=records["decoder"].toolchain,
        checkpoint=_shareable(config.checkpoint),
        checkpoint_digest=config.checkpoint_digest,
        engines={part: record.sha256 for part, record in records.items()},
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        threads=settings["threads"],
        prompts=len(settings["prompts"]),
        load_seconds=round(load_seconds, 3),
        memory_before_mib=round(before, 1),
        memory_peak_mib=round(process_mib("VmHWM") or 0.0, 1),
        cameras=cameras,
    )


def _shareable(checkpoint: str) -> str:
    """A checkpoint's name without the folders that it lies in: people are to share the result."""
    return checkpoint if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")) else Path(checkpoint).name


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


def _measure(pipeline: Pipeline, frames: Sequence[Image], cameras: int, settings: Mapping[str, Any]) -> CameraBench:
    """Rounds of ``cameras`` images: a warm-up, then the timed windows."""
    feed = itertools.cycle(frames)
    top = None if _detects(pipeline, frames, settings["prompts"]) else settings["masks"]
    watch = StopWatch()
    kept: list[int] = []

    def rounds(count: int) -> tuple[list[float], list[dict[str, float]]]:
        times, stages = [], []
        for _ in range(count):
            images = list(itertools.islice(feed, cameras))
            started = time.perf_counter()
            found = pipeline.detect(images, settings["prompts"], top=top, stages=watch)
            times.append((time.perf_counter() - started) * 1e3)
            stages.append(watch.take())
            kept.append(sum(len(one.scores) for image in found for one in image))
        return times, stages

    rounds(settings["warmup"])
    kept.clear()
    windows = [rounds(settings["rounds"]) for _ in range(settings["windows"])]
    samples = [sample for times, _ in windows for sample in times]
    stages = [stage for _, window in windows for stage in window]
    medians = [float(np.median(times)) for times, _ in windows]
    return CameraBench(
        cameras=cameras,
        end_to_end=latency(samples),
        stages={name: latency([stage[name] for stage in stages]) for name in stages[0]},
        fps_per_camera=round(1e3 / float(np.median(samples)), 3),
        stable=max(medians) - min(medians) <= _STABLE * float(np.median(medians)),
        masks_kept=round(float(np.mean(kept)), 2),
        samples_ms=tuple(round(sample, 3) for sample in samples),
    )


def _detects(pipeline: Pipeline, frames: Sequence[Image], prompts: Sequence[str]) -> bool:
    found = pipeline.detect([frames[0]], prompts, threshold=THRESHOLD)
    return any(len(one.scores) for one in found[0])
