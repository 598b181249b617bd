"""Measures a variant: end to end, each stage, each part alone, memory, and the GPU's clocks meanwhile.

A round processes one image from each camera, from preprocessing to postprocessing, up to results on the host; images
are decoded beforehand. Stages are timed in rounds of their own, since per-stage timing synchronises between stages and
so removes overlap. The family's workload decides what a round and a part's call do; docs/measuring.md explains what
each number contains.
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
from sam3_runtime.core.source_files import expand_images, is_video
from sam3_runtime.deploy.loading import load
from sam3_runtime.families import runtime
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.gpu_monitor import MemoryGauge, clocks_of, monitor
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.media.sources import load_image, read_video
from sam3_runtime.records.measurements import BenchResult, CameraBench, PartBench, Rounds, latency, of_variant, stable
from sam3_runtime.records.memory import process_mib

_FRAMES = 32  # decoded and kept in memory; rounds cycle through them


class StopWatch:
    """A stage hook that adds up the milliseconds of each stage in ``totals``; ``wait`` is called at its borders."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self._wait = wait

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
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
        bench = _Bench(model, frames, settings)
        gauge.mark("ready", model.device.memory)
        with monitor(enabled=on_gpu) as readings:
            cameras = bench.measure_cameras()
        gauge.mark("peak", model.device.memory)
        parts = bench.measure_parts()
        config, records = model.config, model.records
    peak, gpu, without = process_mib("VmHWM") or 0.0, find_gpu(), {}
    if on_gpu:
        with load(directory, threads=settings["threads"], cuda_graphs=False) as model:
            again = _Bench(model, frames, settings)
            without["cuda_graphs"] = Rounds(cameras=again.measure_cameras(), parts=again.measure_parts())
    return BenchResult(
        **of_variant(config, records, settings["device"]),
        driver=gpu.driver if on_gpu and gpu else None,
        toolchain=next(iter(records.values())).toolchain,
        threads=settings["threads"],
        prompts=bench.work.prompts,
        load_seconds=round(load_seconds, 3),
        memory_before_mib=round(before, 1),
        memory_peak_mib=round(peak, 1),
        device_memory=gauge.result(readings) if on_gpu else None,
        clocks=clocks_of(gauge.before, readings) if on_gpu else None,
        cameras=cameras,
        parts=parts,
        without=without,
    )


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


class _Bench:
    """A model with its workload, warmed up."""

    def __init__(self, model: Any, frames: Sequence[Image], settings: Mapping[str, Any]) -> None:
        self.work = runtime(model.config.family).workload(model, settings)
        self.work.warm_up(frames[: model.batch])
        self._frames, self._settings, self._wait = frames, settings, model.device.synchronize

    def measure_cameras(self) -> tuple[CameraBench, ...]:
        """Measure rounds of each number of cameras in the settings."""
        return tuple(map(self._measure_rounds, self._settings["cameras"]))

    def _measure_rounds(self, cameras: int) -> CameraBench:
        """Time rounds of ``cameras`` images: a warm-up, the timed windows, and a window whose stages are timed."""
        feed = itertools.cycle(self._frames)
        masks: list[int] = []

        def one_round(stages: StopWatch | None = None) -> None:
            masks.append(self.work.round(list(itertools.islice(feed, cameras)), stages))

        windows = timed_windows(one_round, self._settings, self._wait)
        samples = [sample for times in windows for sample in times]
        mean_masks = float(np.mean(masks[-len(samples) :]))
        watches = [StopWatch(self._wait) for _ in range(self._settings["rounds"])]
        for watch in watches:
            one_round(watch)
        return CameraBench(
            cameras=cameras,
            end_to_end=latency(samples),
            stages={name: latency([watch.totals[name] for watch in watches]) for name in watches[0].totals},
            fps_per_camera=round(1e3 / float(np.median(samples)), 3),
            stable=stable(windows),
            masks_kept=round(mean_masks, 2),
            samples_ms=tuple(round(sample, 3) for sample in samples),
        )

    def measure_parts(self) -> tuple[PartBench, ...]:
        """Measure each part alone, where the settings ask for that."""
        found = []
        for one in self.work.parts(self._frames) if self._settings["parts"] else ():
            windows = timed_windows(one.call, self._settings, self._wait)
            times = {"latency": latency([sample for window in windows for sample in window]), "stable": stable(windows)}
            found.append(PartBench(part=one.part, images=one.images, prompts=one.prompts, **times))
        return tuple(found)
