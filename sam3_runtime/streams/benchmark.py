"""Measures the speed of a run over several sources, nothing written.

The result is frames per second, latency, GPU utilization, and the time of a round compared with its engines alone.

The run is :class:`Flow` itself, over files that are repeated. After a warm-up it is timed for a number of frames of
each camera. Engine calls are counted by the shapes of their inputs; afterwards each kind is timed alone with inputs of
the run. Independent of the backend; docs/measuring.md explains what each number includes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.engines.running.base import AnyArray, Engine
from sam3_runtime.families.sam3.detector import Detector, open_detector
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.measure.gpu_monitor import MemoryGauge, clocks_of, monitor
from sam3_runtime.measure.timing import timed
from sam3_runtime.media.images import TakeFromSources
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.measurements import EngineCalls, StreamBench, latency, of_variant, stable
from sam3_runtime.records.memory import process_mib
from sam3_runtime.streams.cameras import Frames, Problem, Source, find_sources, frame_at
from sam3_runtime.streams.flow import BatchResults, Flow, FlowSettings

_Shape = tuple[tuple[str, int], ...]
_WARM_UP = 3  # calls of an engine alone; a shape runs as a CUDA graph from its third run on
_ALONE = 20
_WINDOWS = 4


class Repeated(Source):
    """A file that is repeated for ever: a camera that waits for its reader."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, source.fps)
        self._source = source

    def read(self, problem: Problem) -> Frames:
        """Yield the frames of each repetition; :class:`SourceError` for a file without a frame."""
        first = 0
        while True:
            number = -1
            for number, _, image in self._source.read(problem):
                yield frame_at(first + number, self.fps, image)
            if number < 0:
                raise SourceError(f"{self.name} contains no frame", "measure with files that have frames")
            first += number + 1


class CountedEngine(Engine):
    """A proxy of ``engine`` that counts its calls by the sizes of their dynamic dimensions.

    It also keeps the last inputs of each kind, and sums up the ``seconds`` of the calls.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.record)
        self.engine = engine
        self.calls: Counter[_Shape] = Counter()
        self.seconds = 0.0
        self.feeds: dict[_Shape, Mapping[str, AnyArray]] = {}

    def infer(self, feeds: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """Run the engine; see :meth:`Engine.infer`."""
        dims = [pair for spec in self.inputs for pair in zip(spec.shape, feeds[spec.name].shape, strict=True)]
        shape = tuple(sorted({(dim, size) for dim, size in dims if isinstance(dim, str)}))
        self.calls[shape] += 1
        self.feeds[shape] = feeds
        started = time.perf_counter()
        outputs = self.engine.infer(feeds)
        self.seconds += time.perf_counter() - started
        return outputs

    def reset(self) -> None:
        """Set all counts to zero."""
        self.calls.clear()
        self.seconds = 0.0

    def _run(self, feeds: Mapping[str, Any]) -> Mapping[str, AnyArray]:
        return self.engine.infer(feeds)

    def release(self) -> None:
        """Release the engine."""
        self.engine.release()

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


class _TimedDetector:
    """A detector whose rounds are timed after ``warm_up`` of them.

    ``on_start`` is called after the warm-up, and ``on_end`` after ``frames`` more frames; both in the thread of the
    engines, between two rounds.
    """

    def __init__(self, detector: Detector, warm_up: int, frames: int, on_start: Callable[[], object]) -> None:
        self._detector, self._warm_up, self._frames = detector, warm_up, frames
        self.batch, self.classes = detector.batch, detector.classes
        self._on_start = on_start
        self.on_end: Callable[[], object] = lambda: None
        self._ends: list[float] = []
        self._images: list[int] = []
        self._masks: list[int] = []

    def rounds(self, take: TakeFromSources) -> BatchResults:
        with closing(self._detector.rounds(take)) as rounds:
            for found in rounds:
                self._ends.append(time.perf_counter())
                self._images.append(len(found))
                self._masks.append(sum(len(one) for image in found for one in image))
                if len(self._ends) == self._warm_up:
                    self._on_start()
                elif self.frames >= self._frames:
                    self.on_end()
                yield found

    def source_ended(self, source: int) -> None:
        self._detector.source_ended(source)

    @property
    def steady(self) -> bool:
        return len(self._ends) > self._warm_up

    @property
    def frames(self) -> int:
        return sum(self._images[self._warm_up :])

    @property
    def masks(self) -> float:
        """Mean number in a round."""
        return fmean(self._masks[self._warm_up :])

    @property
    def periods(self) -> list[float]:
        """Milliseconds from the end of one round to that of the next."""
        return [(later - earlier) * 1e3 for earlier, later in pairwise(self._ends[self._warm_up - 1 :])]


def benchmark_stream(
    engines: Path,
    classes: Path | Sequence[Prompt],
    sources: Sequence[str | Path],
    *,
    cameras: int | None = None,
    frames: int = 200,
    warm_up: int = 10,
    top: int | None = None,
    threads: int | None = None,
) -> StreamBench:
    """Measure ``frames`` frames of each camera after ``warm_up`` rounds.

    ``classes`` are those of a bank or project file, or prompts. ``top`` selects that many best detections of each
    class, for weights that detect nothing. Raises as :func:`open_detector` and :func:`find_sources` do, and
    :class:`SourceError` for a live source, which sets the pace.
    """
    found = find_sources(sources, cameras)
    if any(source.live for source in found):
        raise SourceError("a live source has a pace of its own", "measure with files")
    gauge = MemoryGauge()
    with open_detector(engines, classes, top=top, threads=threads) as detector:
        pipeline = detector.pipeline
        device = pipeline.device
        on_gpu = device.memory() is not None
        gauge.mark("loaded", device.memory)
        counted = {part: CountedEngine(engine) for part, engine in pipeline.engines.items()}
        pipeline.engines.update(counted)

        def reset() -> None:
            for engine in counted.values():
                engine.reset()

        timed_detector = _TimedDetector(detector, warm_up, frames * len(found), reset)
        with monitor(enabled=on_gpu) as readings:

            def on_ready() -> None:
                gauge.mark("ready", device.memory)
                readings.clear()

            latencies, sizes = _run(timed_detector, list(map(Repeated, found)), on_ready)
        gauge.mark("peak", device.memory)
        periods = timed_detector.periods
        inside = None if device.queues else sum(engine.seconds for engine in counted.values())
        calls = [call for engine in counted.values() for call in _alone(engine, len(periods), device.synchronize)]
        config, records = pipeline.config, pipeline.records
    gpu = find_gpu() if on_gpu else None
    toolchain = next(iter(records.values())).toolchain
    seconds, engines_ms = sum(periods) / 1e3, sum(one.calls * one.alone.median for one in calls)
    busy = [one.busy_percent for one in readings if one.busy_percent is not None]
    measured, fps = timed_detector.frames, timed_detector.frames / seconds
    return StreamBench(
        **of_variant(config, records, device_name(toolchain)),
        driver=gpu.driver if gpu else None, toolchain=toolchain, threads=threads,
        classes=len(detector.classes), kept=top, masks=round(timed_detector.masks, 2),
        cameras=len(found), pictures=tuple(sizes[source.name] for source in found),
        frames=measured, images=round(measured / len(periods), 3), seconds=round(seconds, 3),
        rounds=latency(periods), stable=stable(_windows(periods)), frame=latency(latencies),
        fps=round(fps, 3), fps_per_camera=round(fps / len(found), 3),
        engines_ms=round(engines_ms, 3), ratio=round(seconds * 1e3 / len(periods) / engines_ms, 4),
        ratio_inside=round(seconds / inside, 4) if inside else None, calls=tuple(calls),
        memory_peak_mib=round(process_mib("VmHWM") or 0.0, 1),
        device_memory=gauge.result(readings) if on_gpu else None,
        clocks=clocks_of(gauge.before, readings) if on_gpu else None,
        busy_percent=round(fmean(busy), 1) if busy else None,
    )  # fmt: skip


def _run(
    detector: _TimedDetector, sources: Sequence[Source], on_ready: Callable[[], None]
) -> tuple[list[float], dict[str, tuple[int, int]]]:
    """Run until the detector has its frames; ``on_ready`` is called after the warm-up, during the run.

    Returns the latencies after the warm-up in ms, and (height, width) of each source's frames.
    """
    latencies: list[float] = []
    sizes: dict[str, tuple[int, int]] = {}
    with Flow(detector, sources, settings=FlowSettings(patience=1.0)) as flow:
        detector.on_end = flow.stop
        for result in flow:
            sizes[result.source] = (result.image.shape[0], result.image.shape[1])
            if detector.steady:
                if not latencies:
                    on_ready()
                latencies.append(result.latency * 1e3)
    return latencies, sizes


def _windows(periods: Sequence[float]) -> list[Sequence[float]]:
    step = -(-len(periods) // _WINDOWS)
    return [periods[start : start + step] for start in range(0, len(periods), step)]


def _alone(engine: CountedEngine, rounds: int, synchronize: Callable[[], None]) -> Iterator[EngineCalls]:
    """Time each kind of call of ``engine``, with nothing else running."""
    for shape, count in sorted(engine.calls.items()):
        times = timed(partial(engine.engine.infer, engine.feeds[shape]), _WARM_UP + _ALONE, synchronize)[_WARM_UP:]
        yield EngineCalls(
            part=engine.record.part, shape=dict(shape), calls=round(count / rounds, 4), alone=latency(times),
            stable=stable(_windows(times)),
        )  # fmt: skip
