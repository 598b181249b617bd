"""Measures a variant: end to end, each stage, each part alone, memory, and the GPU's clocks meanwhile.

A round processes one image from each camera, from preprocessing to postprocessing, up to results on the host; images
are decoded beforehand. Stages are timed in rounds of their own, since per-stage timing synchronises between stages and
so removes overlap. The family's workload decides what a round and a part's call do; docs/measuring.md says what each
number contains.
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
from sam3_runtime.families import runtime
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.gpu_monitor import MemoryGauge, clocks_of, monitor
from sam3_runtime.measure.memory import process_mib
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.media.source_files import expand_images, is_video
from sam3_runtime.media.sources import load_image, read_video
from sam3_runtime.records.measurements import BenchResult, CameraBench, PartBench, Rounds, latency, of_variant, stable

_FRAMES = 32  # decoded and kept in memory; rounds cycle through them


class StopWatch:
    """A stage hook that adds up the milliseconds of each stage in ``totals``; ``wait`` is called at its borders."""

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


def benchmark(directory: Path, settings: Mapping[str, Any], images: Sequence[Image] | None = None) -> BenchResult:
    """Measure the variant in ``directory`` with the settings of ``bench:`` and the device's name.

    On a GPU everything is measured once more without CUDA graphs. ``images`` (RGB uint8 [H, W, 3]) replace the
    ``source`` of the settings. Raises :class:`SourceError` when that contains no image.
    """
    frames = images or _frames(settings["source"])
    before = process_mib("VmRSS") or 0.0
    gauge = MemoryGauge()
    started = time.perf_counter()
    with load(directory, threads=settings["threads"]) as model:
        load_seconds = time.perf_counter() - started
        on_gpu = model.device.memory() is not None
        gauge.mark("loaded", model.device.memory)
        work = _warmed_up(model, frames, settings)
        gauge.mark("ready", model.device.memory)
        with monitor(enabled=on_gpu) as readings:
            cameras = _measure_cameras(model, work, frames, settings)
        gauge.mark("peak", model.device.memory)
        parts = _measure_parts(model, work, frames, settings)
        config, records = model.config, model.records
    peak, gpu, without = process_mib("VmHWM") or 0.0, find_gpu(), {}
    if on_gpu:
        with load(directory, threads=settings["threads"], cuda_graphs=False) as model:
            again = _warmed_up(model, frames, settings)
            rounds = _measure_cameras(model, again, frames, settings)
            without["cuda_graphs"] = Rounds(cameras=rounds, parts=_measure_parts(model, again, frames, settings))
    return BenchResult(
        **of_variant(config, records, settings["device"]),
        driver=gpu.driver if on_gpu and gpu else None,
        toolchain=next(iter(records.values())).toolchain,
        threads=settings["threads"],
        prompts=work.prompts,
        load_seconds=round(load_seconds, 3),
        memory_before_mib=round(before, 1),
        memory_peak_mib=round(peak, 1),
        device_memory=gauge.result(readings) if on_gpu else None,
        clocks=clocks_of(gauge.before, readings) if on_gpu else None,
        cameras=cameras,
        parts=parts,
        without=without,
    )


def _warmed_up(model: Any, frames: Sequence[Image], settings: Mapping[str, Any]) -> Any:
    work = runtime(model.config.family).workload(model, settings)
    work.warm_up(frames[: model.batch])
    return work


def _frames(sources: Sequence[str]) -> list[Image]:
    frames: list[Image] = []
    for source in sources:
        if is_video(source):
            with read_video(source) as video:
                frames += itertools.islice(video, _FRAMES)
        else:
            frames += [load_image(image.path) for image in expand_images([source])]
    if not frames:
        raise SourceError(f"bench.source contains no image: {', '.join(sources)}", "name a video or images")
    return frames[:_FRAMES]


def _measure_cameras(
    model: Any, work: Any, frames: Sequence[Image], settings: Mapping[str, Any]
) -> tuple[CameraBench, ...]:
    return tuple(_measure_rounds(model, work, frames, count, settings) for count in settings["cameras"])


def _measure_rounds(
    model: Any, work: Any, frames: Sequence[Image], cameras: int, settings: Mapping[str, Any]
) -> CameraBench:
    """Rounds of ``cameras`` images: a warm-up, the timed windows, and a window whose stages are timed."""
    feed = itertools.cycle(frames)
    masks: list[int] = []

    def one_round(stages: StopWatch | None = None) -> None:
        masks.append(work.round(list(itertools.islice(feed, cameras)), stages))

    windows = timed_windows(one_round, settings, model.device.synchronize)
    samples = [sample for times in windows for sample in times]
    mean_masks = float(np.mean(masks[-len(samples) :]))
    stages = []
    for _ in range(settings["rounds"]):
        watch = StopWatch(model.device.synchronize)
        one_round(watch)
        stages.append(watch.totals)
    return CameraBench(
        cameras=cameras,
        end_to_end=latency(samples),
        stages={name: latency([stage[name] for stage in stages]) for name in stages[0]},
        fps_per_camera=round(1e3 / float(np.median(samples)), 3),
        stable=stable(windows),
        masks_kept=round(mean_masks, 2),
        samples_ms=tuple(round(sample, 3) for sample in samples),
    )


def _measure_parts(
    model: Any, work: Any, frames: Sequence[Image], settings: Mapping[str, Any]
) -> tuple[PartBench, ...]:
    """Each part alone, where the settings ask for that."""
    found = []
    for one in work.parts(frames) if settings["parts"] else ():
        windows = timed_windows(one.call, settings, model.device.synchronize)
        taken = latency([sample for window in windows for sample in window])
        found.append(
            PartBench(part=one.part, images=one.images, prompts=one.prompts, latency=taken, stable=stable(windows))
        )
    return tuple(found)
