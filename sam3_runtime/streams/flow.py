"""Runs a detector over sources: reading, detection and the caller's code run at the same time, with bounded queues.

    a thread per source: reads ──▶ inbox ──▶ one thread: detects, batch by batch ──▶ results ──▶ the iterating caller

Every frame of a file is processed, in order. Of a live source the newest frame is processed, and dropped ones are
counted. An exception in a thread is raised where the results are iterated. The detector is a
:class:`Detecting`, which receives the source of each image, and the end of each source.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.images import SourceImage, TakeFromSources
from sam3_runtime.streams.cameras import Source, find_sources
from sam3_runtime.streams.queues import Channel, Inbox
from sam3_runtime.streams.readers import LiveSettings, Readers, ReadFrame, Report
from sam3_runtime.streams.summaries import RunSummary, Tally
from sam3_runtime.tracking.tracker import Tracker, TrackSettings

BatchResults = Generator[list[list[Detections]], None, None]
"""The detections of one batch after another: ``[image][class]``."""


class Detecting(Protocol):
    """A detector: :class:`sam3_runtime.Detector`, or a model with a state for each source.

    ``source_ended`` is called in the thread of ``rounds``, after the results of the source's last image. Where a run is
    left early, the generator is closed instead.
    """

    @property
    def batch(self) -> int:
        """The most images of a batch."""

    @property
    def classes(self) -> Sequence[Any]:
        """One entry for each of an image's detections."""

    def rounds(self, take: TakeFromSources) -> BatchResults:
        """Yield the detections of each batch that ``take`` returns, until that is empty."""

    def source_ended(self, source: int) -> None:
        """Handle the end of a source, given by its index."""


@dataclass(frozen=True)
class Result:
    """The detections on one frame of one source.

    ``number`` counts the source's frames from 0, dropped ones included, and ``seconds`` is the frame's time in it.
    ``image``: RGB uint8 [H, W, 3]. ``detections`` has one entry per class, and ``tracks``, where tracking is on, the
    identities of its detections, int64 [K] per class (-1: none yet). ``latency``: seconds from reading the frame to its
    detections.
    """

    source: str
    number: int
    seconds: float
    image: Image
    detections: list[Detections]
    tracks: list[NDArray[np.int64]] | None
    latency: float


@dataclass(frozen=True)
class FlowSettings:
    """``patience``: seconds that a started batch waits for frames of the other sources.

    ``frames``: the most frames that are processed of each source. ``clock`` returns the time in seconds; tests replace
    it.
    """

    patience: float = 0.02
    frames: int | None = None
    live: LiveSettings = field(default_factory=LiveSettings)
    clock: Callable[[], float] = time.monotonic


def stream(
    detector: Detecting,
    sources: Sequence[str | Path | Source],
    *,
    track: bool | TrackSettings = False,
    settings: FlowSettings | None = None,
    report: Report | None = None,
) -> Iterator[Result]:
    """Detect on every frame of ``sources``, and yield the results as they come, in order for each source.

    ``sources`` are as for :func:`sam3_runtime.streams.cameras.find_sources`. ``track`` gives detections identities.
    ``report`` is called with messages about failing sources. :class:`Flow` is the same with a summary and ``stop()``.

    Raises :class:`SourceError` where a source names nothing, and every exception of the detector. A damaged file or a
    failing camera is reported, and the others go on.
    """
    with Flow(detector, sources, track=track, settings=settings, report=report) as flow:
        yield from flow


class Flow:
    """A run of a detector over sources: a context manager, and an iterator of :class:`Result`, once.

    Arguments and errors are those of :func:`stream`. Leaving it early ends the threads and drops waiting frames.
    """

    def __init__(
        self,
        detector: Detecting,
        sources: Sequence[str | Path | Source],
        *,
        track: bool | TrackSettings = False,
        settings: FlowSettings | None = None,
        report: Report | None = None,
    ) -> None:
        self.sources = find_sources(sources)
        self._detector = detector
        self._settings = settings or FlowSettings()
        self._clock = self._settings.clock
        # The inbox takes a whole batch of files while the one before is processed.
        capacity = max(2, -(-2 * detector.batch // len(self.sources)))
        self._inbox: Inbox[ReadFrame] = Inbox([one.live for one in self.sources], capacity, self._settings.frames)
        self._results: Channel[tuple[int, ReadFrame, list[Detections], float]] = Channel(2 * detector.batch)
        self._readers = Readers(
            self.sources, self._inbox, self._settings.live, report or (lambda _: None), self._fail, self._clock
        )
        self._inference = Thread(target=self._infer, name="infer", daemon=True)
        self._track = TrackSettings() if track is True else track or None
        self._trackers: dict[int, Tracker] = {}
        self._ended_sources: set[int] = set()
        self._error: BaseException | None = None
        self._entered = False
        self._started = self._ended = 0.0
        self._batches = 0
        self._tallies = [Tally() for _ in self.sources]
        self._found: Counter[str] = Counter()

    # --- threads ------------------------------------------------------------------------------------------------------

    def _infer(self) -> None:
        taken: deque[list[tuple[int, ReadFrame]]] = deque()  # the current batch, and a prefetched one

        def take(wait: bool) -> list[SourceImage]:
            if self._readers.stop_requested:
                return []
            batch = self._inbox.take(self._detector.batch, self._settings.patience, wait)
            if batch:
                taken.append(batch)
            return [SourceImage(frame.image, source, frame.number, frame.seconds) for source, frame in batch]

        try:
            with closing(self._detector.rounds(take)) as batches:
                for found in batches:
                    for (source, frame), detections in zip(taken.popleft(), found, strict=True):
                        if not self._results.put((source, frame, detections, self._clock() - frame.read)):
                            return
                    self._batches += 1
                    prefetched = {source for batch in taken for source, _ in batch}
                    self._end_sources(set(self._inbox.exhausted()) - prefetched)
            self._end_sources(range(len(self.sources)))
        except BaseException as error:  # raised where the results are iterated
            self._fail(error)
        finally:
            self._results.end()

    def _end_sources(self, sources: Iterable[int]) -> None:
        for source in sorted(set(sources) - self._ended_sources):
            self._ended_sources.add(source)
            self._detector.source_ended(source)

    def _fail(self, error: BaseException) -> None:
        """Store the first exception of a thread, and end the run."""
        self._error = self._error or error
        self._readers.stop()

    def stop(self) -> None:
        """Request the end of the run: the current batch is finished, and its results are still yielded.

        May be called from any thread and from a signal handler.
        """
        self._readers.stop_requested = True

    # --- results ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._entered = True
        self._started = self._clock()
        self._readers.start()
        self._inference.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._results.close()
        self._readers.stop()
        self._inference.join()  # the caller closes the engines next: they must not be in use
        self._readers.join()
        self._ended = self._ended or self._clock()

    def __iter__(self) -> Iterator[Result]:
        if not self._entered:
            raise RuntimeError("a Flow runs inside `with`")
        while (item := self._results.get()) is not None:
            yield self._result(*item)
        self._ended = self._clock()
        if self._error is not None:
            raise self._error

    def _result(self, index: int, frame: ReadFrame, detections: list[Detections], latency: float) -> Result:
        source = self.sources[index]
        self._tallies[index].add(latency)
        for one in detections:
            self._found[one.prompt] += len(one)
        tracks = None
        if self._track is not None and source.tracked:
            if index not in self._trackers:
                self._trackers[index] = Tracker(len(self._detector.classes), source.fps, self._track)
            tracks = self._trackers[index].update(detections, frame.seconds)
        return Result(source.name, frame.number, frame.seconds, frame.image, detections, tracks, latency)

    @property
    def expected(self) -> int | None:
        """The number of results to come in all; None where it is not known."""
        most = self._settings.frames
        counts = [
            most if one.live or one.frames is None else min(one.frames, most or one.frames) for one in self.sources
        ]
        return None if None in counts else sum(filter(None, counts))

    def waiting(self) -> tuple[int, int]:
        """Return how many frames wait for detection, and how many results wait for the caller."""
        return len(self._inbox), len(self._results)

    def summary(self) -> RunSummary:
        """Return the summary of the run up to now."""
        seconds = (self._ended or self._clock()) - self._started
        lines = []
        for index, (source, reader) in enumerate(zip(self.sources, self._readers.readers, strict=True)):
            line = self._tallies[index].summary(
                source.name, seconds, dropped=self._inbox.dropped(index), failures=reader.failures,
                problems=reader.problems,
            )  # fmt: skip
            lines.append(line)
        total = sum(self._tallies, Tally()).summary(
            "total", seconds, dropped=sum(one.dropped for one in lines), failures=sum(one.failures for one in lines)
        )
        return RunSummary(
            seconds=round(seconds, 3), rounds=self._batches, sources=tuple(lines), total=total, found=dict(self._found)
        )
