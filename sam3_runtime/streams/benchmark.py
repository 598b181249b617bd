"""Measures a run over several sources, nothing written: frames a second, latency, how busy the GPU is, and how much the
rounds take beside what their engines take alone.

The run is :class:`Flow` itself, over files that begin again at their end. After a warm-up it is
watched for so many frames of each camera. Every call of an engine is counted by the shapes of its inputs; afterwards
each kind is timed alone with inputs that it had. Knows no backend; docs/measuring.md says what each number has in it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.engines.running.base import AnyArray, Engine
from sam3_runtime.families.sam3.detector import Detector, open_detector
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.measure.gpu_monitor import MemoryGauge, Monitor, clocks_of
from sam3_runtime.measure.memory import process_mib
from sam3_runtime.measure.timing import timed
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.measurements import EngineCalls, Reading, StreamBench, latency, of_variant, stable
from sam3_runtime.streams.cameras import Frames, Problem, Source, find_sources, frame_at
from sam3_runtime.streams.flow import Flow, FlowSettings
from sam3_runtime.streams.images import TakeFromSources

_Shape = tuple[tuple[str, int], ...]
_WARM_UP = 3  # calls of an engine alone; a shape is replayed as a CUDA graph from its third run on
_ALONE = 20
_WINDOWS = 4


class Repeated(Source):
    """A file that begins again at its end: a camera that never ends, and that waits."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, source.fps)
        self._source = source

    def read(self, problem: Problem) -> Frames:
        first = 0
        while True:
            number = -1
            for number, _, image in self._source.read(problem):
                yield frame_at(first + number, self.fps, image)
            if number < 0:
                raise SourceError(f"{self.name} holds no frame", "measure with files that do")
            first += number + 1


class CountedEngine(Engine):
    """Stands for ``engine``: counts its calls by the sizes of their dynamic dimensions, keeps the last feeds, and adds
    up the ``seconds`` of the calls."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.record)
        self.engine = engine
        self.calls: Counter[_Shape] = Counter()
        self.seconds = 0.0
        self.feeds: dict[_Shape, Mapping[str, AnyArray]] = {}

    def infer(self, feeds: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        dims = [pair for spec in self.inputs for pair in zip(spec.shape, feeds[spec.name].shape, strict=True)]
        shape = tuple(sorted({(dim, size) for dim, size in dims if isinstance(dim, str)}))
        self.calls[shape] += 1
        self.feeds[shape] = feeds
        started = time.perf_counter()
        outputs = self.engine.infer(feeds)
        self.seconds += time.perf_counter() - started
        return outputs

    def forget(self) -> None:
        """Count from here on."""
        self.calls.clear()
        self.seconds = 0.0

    def _run(self, feeds: Mapping[str, Any]) -> Mapping[str, AnyArray]:
        return self.engine.infer(feeds)

    def release(self) -> None:
        self.engine.release()

    def close(self) -> None:
        self.engine.close()


class _Watched:
    """A detector whose rounds are timed, behind ``warm_up`` of them. ``begun`` is called when those are through, and
    ``done`` once ``frames`` more were looked at; both in the thread of the engines, between two rounds."""

    def __init__(self, detector: Detector, warm_up: int, frames: int) -> None:
        self._detector, self._warm_up, self._frames = detector, warm_up, frames
        self.batch, self.classes = detector.batch, detector.classes
        self.begun: Callable[[], object] = lambda: None
        self.done: Callable[[], object] = lambda: None
        self._through: list[float] = []
        self._images: list[int] = []
        self._masks: list[int] = []

    def rounds(self, take: TakeFromSources) -> Generator[list[list[Detections]], None, None]:
        with closing(self._detector.rounds(take)) as rounds:
            for found in rounds:
                self._through.append(time.perf_counter())
                self._images.append(len(found))
                self._masks.append(sum(len(one) for image in found for one in image))
                if len(self._through) == self._warm_up:
                    self.begun()
                elif self.frames >= self._frames:
                    self.done()
                yield found

    def source_ended(self, source: int) -> None:
        self._detector.source_ended(source)

    @property
    def steady(self) -> bool:
        return len(self._through) > self._warm_up

    @property
    def frames(self) -> int:
        return sum(self._images[self._warm_up :])

    @property
    def masks(self) -> float:
        """In a round, mean."""
        return fmean(self._masks[self._warm_up :])

    @property
    def periods(self) -> list[float]:
        """Milliseconds from one round's end to the next one's."""
        through = self._through[self._warm_up - 1 :]
        return [(later - earlier) * 1e3 for earlier, later in pairwise(through)]


@dataclass(frozen=True)
class _Seen:
    """What came out in the steady state: latencies in ms, and the size of each source's frames."""

    latencies: list[float]
    sizes: dict[str, tuple[int, int]]
    readings: list[Reading]


def benchmark_stream(
    engines: Path,
    classes: Path,
    sources: Sequence[str | Path],
    *,
    cameras: int | None = None,
    frames: int = 200,
    warm_up: int = 10,
    top: int | None = None,
    threads: int | None = None,
) -> StreamBench:
    """Measure ``frames`` frames of each camera behind ``warm_up`` rounds, with the classes of a bank or project file.

    ``top`` keeps that many best of each class, for weights that detect nothing. Raises what :func:`open_detector` and
    :func:`find_sources` raise, and :class:`SourceError` for a live source, whose pace would be measured.
    """
    found = find_sources(sources, cameras)
    if any(source.live for source in found):
        raise SourceError("a live source has a pace of its own", "measure with files")
    repeated = [Repeated(source) for source in found]
    gauge = MemoryGauge()
    with open_detector(engines, classes, top=top, threads=threads) as detector:
        pipeline = detector.pipeline
        on_gpu = pipeline.device.memory() is not None
        gauge.mark("loaded", pipeline.device.memory)
        counted = {part: CountedEngine(engine) for part, engine in pipeline.engines.items()}
        pipeline.engines.update(counted)
        watched = _Watched(detector, warm_up, frames * len(found))
        watched.begun = partial(_forget, counted.values())
        with Monitor(enabled=on_gpu) as monitor:
            seen = _run(watched, repeated, lambda: gauge.mark("ready", pipeline.device.memory), monitor)
        gauge.mark("peak", pipeline.device.memory)
        periods = watched.periods
        inside = None if pipeline.device.queues else sum(engine.seconds for engine in counted.values())
        wait = pipeline.device.synchronize
        calls = [call for engine in counted.values() for call in _alone(engine, len(periods), wait)]
        config, records = pipeline.config, pipeline.records
    gpu = find_gpu() if on_gpu else None
    seconds, engines_ms = sum(periods) / 1e3, sum(one.calls * one.alone.median for one in calls)
    busy = [one.busy_percent for one in seen.readings if one.busy_percent is not None]
    return StreamBench(
        **of_variant(config, records, device_name(next(iter(records.values())).toolchain)),
        driver=gpu.driver if gpu else None,
        toolchain=next(iter(records.values())).toolchain,
        threads=threads,
        classes=len(detector.classes),
        kept=top,
        masks=round(watched.masks, 2),
        cameras=len(found),
        pictures=tuple(seen.sizes[source.name] for source in found),
        frames=watched.frames,
        images=round(watched.frames / len(periods), 3),
        seconds=round(seconds, 3),
        rounds=latency(periods),
        stable=stable(_windows(periods)),
        frame=latency(seen.latencies),
        fps=round(watched.frames / seconds, 3),
        fps_per_camera=round(watched.frames / seconds / len(found), 3),
        engines_ms=round(engines_ms, 3),
        ratio=round(seconds * 1e3 / len(periods) / engines_ms, 4),
        ratio_inside=round(seconds / inside, 4) if inside else None,
        calls=tuple(calls),
        memory_peak_mib=round(process_mib("VmHWM") or 0.0, 1),
        device_memory=gauge.result(seen.readings) if on_gpu else None,
        clocks=clocks_of(gauge.before, seen.readings) if on_gpu else None,
        busy_percent=round(fmean(busy), 1) if busy else None,
    )


def _run(watched: _Watched, sources: Sequence[Source], ready: Callable[[], None], monitor: Monitor) -> _Seen:
    """Run until the watched detector is done; ``ready`` is called behind the warm-up, beside it."""
    latencies: list[float] = []
    sizes: dict[str, tuple[int, int]] = {}
    with Flow(watched, sources, settings=FlowSettings(patience=1.0)) as flow:
        watched.done = flow.stop
        for result in flow:
            sizes[result.source] = (result.image.shape[0], result.image.shape[1])
            if watched.steady:
                if not latencies:
                    ready()
                    monitor.readings.clear()
                latencies.append(result.latency * 1e3)
    return _Seen(latencies, sizes, list(monitor.readings))


def _forget(engines: Iterable[CountedEngine]) -> None:
    for engine in engines:
        engine.forget()


def _windows(periods: Sequence[float]) -> list[Sequence[float]]:
    step = -(-len(periods) // _WINDOWS)
    return [periods[start : start + step] for start in range(0, len(periods), step)]


def _alone(engine: CountedEngine, rounds: int, synchronize: Callable[[], None]) -> list[EngineCalls]:
    """Each kind of call of ``engine``, timed with nothing beside it."""
    found = []
    for shape, count in sorted(engine.calls.items()):
        times = timed(partial(engine.engine.infer, engine.feeds[shape]), _WARM_UP + _ALONE, synchronize)[_WARM_UP:]
        found.append(
            EngineCalls(
                part=engine.record.part,
                shape=dict(shape),
                calls=round(count / rounds, 4),
                alone=latency(times),
                stable=stable(_windows(times)),
            )
        )
    return found
