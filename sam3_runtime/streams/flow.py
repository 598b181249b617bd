"""Runs a detector over sources: frames are read, looked at and handed out at the same time, through bounded queues.

    a thread a source: reads ──▶ inbox ──▶ one thread: detects, a round at a time ──▶ results ──▶ whoever iterates

Every frame of a file comes out, in order. Of a live source the newest is looked at, and what it replaced is counted.
Whatever goes wrong in a thread is raised where the results are taken from. Knows threads, sources and detections; what
finds something is a :class:`Detecting`; it learns which source an image is from, and when one has ended.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.streams.cameras import Source, find_sources
from sam3_runtime.streams.images import SourceImage, TakeFromSources
from sam3_runtime.streams.readers import Frame, LiveSettings, Readers, Tell
from sam3_runtime.streams.rounds import Channel, Inbox
from sam3_runtime.streams.summaries import RunSummary, Tally
from sam3_runtime.tracking.tracker import Tracker, TrackSettings

Rounds = Generator[list[list[Detections]], None, None]


class Detecting(Protocol):
    """What finds things: a :class:`sam3_runtime.Detector`, or a model that keeps something by source.

    ``source_ended`` is called in the thread of ``rounds``, behind the answers to the source's last image. Where a run
    is left early, the generator is closed instead.
    """

    @property
    def batch(self) -> int: ...
    @property
    def classes(self) -> Sequence[Any]: ...  # one for each of an image's detections
    def rounds(self, take: TakeFromSources) -> Rounds: ...
    def source_ended(self, source: int) -> None: ...


@dataclass(frozen=True)
class Result:
    """What was found on one frame of one source.

    ``number`` counts the source's frames from 0, dropped ones included, and ``seconds`` is the frame's time in it.
    ``image``: RGB uint8 [H, W, 3]. ``detections`` has one entry a class, and ``tracks``, where tracking was asked for,
    the identity of each detection, int64 [K] a class (-1: none yet). ``latency``: seconds from the frame's being read
    to this.
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
    """``patience``: seconds that a round with some frames waits for those of the other sources. ``frames``: the most
    that are looked at of each source. ``clock`` tells the time; tests replace it."""

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
    tell: Tell | None = None,
) -> Iterator[Result]:
    """Detect on every frame of ``sources``, and give the results as they come: in order for each source.

    ``sources`` are what :func:`sam3_runtime.streams.cameras.find_sources` takes. ``track`` gives detections identities.
    ``tell`` gets messages about sources that fail. :class:`Flow` is the same with a summary, and can be asked to stop.

    Raises :class:`SourceError` where a source names nothing, and whatever the detector raises. A file that cannot be
    read whole, and a camera that fails, are told, and do not end the others.
    """
    with Flow(detector, sources, track=track, settings=settings, tell=tell) as flow:
        yield from flow


class Flow:
    """A run of a detector over sources: a context manager, and an iterator of :class:`Result`, once.

    Leaving it early ends the threads; frames that were not looked at are forgotten.
    """

    def __init__(
        self,
        detector: Detecting,
        sources: Sequence[str | Path | Source],
        *,
        track: bool | TrackSettings = False,
        settings: FlowSettings | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.sources = find_sources(sources)
        self._detector = detector
        self._settings = settings or FlowSettings()
        self._clock = self._settings.clock
        batch = detector.batch
        # A round of files alone is complete in the inbox while the one before is looked at.
        room = max(2, -(-2 * batch // len(self.sources)))
        self._inbox: Inbox[Frame] = Inbox([one.live for one in self.sources], room, self._settings.frames)
        self._results: Channel[tuple[int, Frame, list[Detections], float]] = Channel(2 * batch)
        self._readers = Readers(
            self.sources, self._inbox, self._settings.live, tell or (lambda _: None), self._fail, self._clock
        )
        self._inference = Thread(target=self._infer, name="infer", daemon=True)
        self._track = TrackSettings() if track is True else track or None
        self._trackers: dict[int, Tracker] = {}
        self._told_ended: set[int] = set()
        self._error: BaseException | None = None
        self._begun = False
        self._started = self._ended = 0.0
        self._rounds = 0
        self._tallies = [Tally() for _ in self.sources]
        self._found: Counter[str] = Counter()

    # --- threads ------------------------------------------------------------------------------------------------------

    def _infer(self) -> None:
        taken: deque[list[tuple[int, Frame]]] = deque()  # the round that is looked at, and one that is begun

        def take(wait: bool) -> list[SourceImage]:
            if self._readers.stop_asked:
                return []
            batch = self._inbox.take(self._detector.batch, self._settings.patience, wait)
            if batch:
                taken.append(batch)
            return [SourceImage(frame.image, place, frame.number, frame.seconds) for place, frame in batch]

        try:
            with closing(self._detector.rounds(take)) as rounds:
                for found in rounds:
                    for (place, frame), detections in zip(taken.popleft(), found, strict=True):
                        if not self._results.put((place, frame, detections, self._clock() - frame.read)):
                            return
                    self._rounds += 1
                    begun = {place for batch in taken for place, _ in batch}
                    self._tell_ended(set(self._inbox.exhausted()) - begun)
            self._tell_ended(range(len(self.sources)))
        except BaseException as error:  # it is raised where the results are taken from
            self._fail(error)
        finally:
            self._results.end()

    def _tell_ended(self, places: Iterable[int]) -> None:
        for place in sorted(set(places) - self._told_ended):
            self._told_ended.add(place)
            self._detector.source_ended(place)

    def _fail(self, error: BaseException) -> None:
        """Note what went wrong in a thread, and end the run."""
        self._error = self._error or error
        self._readers.stop()

    def stop(self) -> None:
        """Ask the run to end: the round that is looked at is finished, and its results still come. From any thread,
        and from a signal's handler."""
        self._readers.stop_asked = True

    # --- results ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._begun = True
        self._started = self._clock()
        self._readers.start()
        self._inference.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._results.close()
        self._readers.stop()
        self._inference.join()  # the engines are the caller's to close, and must not be in use
        self._readers.join()
        self._ended = self._ended or self._clock()

    def __iter__(self) -> Iterator[Result]:
        if not self._begun:
            raise RuntimeError("a Flow runs inside `with`")
        while (item := self._results.get()) is not None:
            yield self._result(*item)
        self._ended = self._clock()
        if self._error is not None:
            raise self._error

    def _result(self, place: int, frame: Frame, detections: list[Detections], latency: float) -> Result:
        self._tallies[place].add(latency)
        for one in detections:
            self._found[one.prompt] += len(one)
        tracks = None
        if self._track is not None:
            if place not in self._trackers:
                self._trackers[place] = Tracker(len(self._detector.classes), self.sources[place].fps, self._track)
            tracks = self._trackers[place].update(detections, frame.seconds)
        return Result(self.sources[place].name, frame.number, frame.seconds, frame.image, detections, tracks, latency)

    @property
    def expected(self) -> int | None:
        """How many results there will be, where that is known."""
        most = self._settings.frames
        counts = [
            most if one.live or one.frames is None else min(one.frames, most or one.frames) for one in self.sources
        ]
        return None if None in counts else sum(filter(None, counts))

    def waiting(self) -> tuple[int, int]:
        """Frames that wait to be looked at, and results that wait to be taken."""
        return len(self._inbox), len(self._results)

    def summary(self) -> RunSummary:
        """What was done so far."""
        seconds = (self._ended or self._clock()) - self._started
        lines = []
        for place, (source, tally) in enumerate(zip(self.sources, self._tallies, strict=True)):
            notes, dropped = self._readers.notes(place), self._inbox.dropped(place)
            lines.append(
                tally.summary(source.name, seconds, dropped=dropped, failures=notes.failures, problems=notes.problems)
            )
        total = reduce(Tally.merged, self._tallies).summary(
            "total", seconds, dropped=sum(one.dropped for one in lines), failures=sum(one.failures for one in lines)
        )
        return RunSummary(
            seconds=round(seconds, 3),
            rounds=self._rounds,
            sources=tuple(lines),
            total=total,
            found=dict(self._found),
        )
