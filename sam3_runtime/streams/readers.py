"""Reads sources, each in a thread of its own, into an inbox; live ones again and again, whatever happens to them.

A live source that ends, fails or gives nothing for a while is tried again after a pause, which grows from one failure
to the next and is told each time. Whatever a file has to say is told, and it ends. Time comes from one clock, which
tests replace. ``tell`` is the caller's code and may block: it is called with no lock held, and while a run goes on
never by the thread that watches for stalls. Knows threads and sources, and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.streams.cameras import Source
from sam3_runtime.streams.rounds import Inbox

_TICK = 0.05  # seconds between two looks at the clock
_STUCK_MOST = 3  # threads of one source that may hang in its driver; no call of OpenCV can be broken off
_JOIN = 2.0  # seconds that a thread is waited for in the end: one that hangs is left behind
_MOST_DOUBLINGS = 64  # of a pause; 2.0 ** 1024 is no number, and a camera may fail more often than that

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Frame:
    """``number`` counts what the source gave, dropped frames included; ``seconds`` is its time in the source, and
    ``read`` the clock's when it was there."""

    number: int
    seconds: float
    image: Image
    read: float


@dataclass(frozen=True)
class LiveSettings:
    """What is done about live sources, in seconds. One that gives nothing for ``stall`` counts as failed; after a
    failure it is tried again in ``first_pause``, which doubles up to ``longest_pause``, and after ``attempts`` failures
    in a row it is given up (never, where None)."""

    stall: float = 10.0
    first_pause: float = 1.0
    longest_pause: float = 30.0
    attempts: int | None = None


@dataclass
class Notes:
    """What happened to one source: messages, and how often it was lost and tried again."""

    problems: list[str] = field(default_factory=list)
    failures: int = 0

    def add(self, message: str) -> None:
        self.failures += 1
        if self.failures <= 100:  # of a camera that fails for weeks the first ones are enough
            self.problems.append(message)


class Readers:
    """The reading threads of a run. ``fail`` is called with whatever no reader expected."""

    def __init__(
        self,
        sources: Sequence[Source],
        inbox: Inbox[Frame],
        settings: LiveSettings,
        tell: Tell,
        fail: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = Event()
        self.stop_asked = False
        """Set to have all threads end soon; a signal's handler may do no more than that."""
        self._inbox = inbox
        self.clock = clock
        self.settings, self.tell, self.fail = settings, tell, fail
        self._readers = [_Reader(self, place, source, inbox) for place, source in enumerate(sources)]
        self._watch = Thread(target=self._watching, name="watch", daemon=True)

    def start(self) -> None:
        for reader in self._readers:
            reader.start()
        self._watch.start()

    def stop(self) -> None:
        """Have all threads end, and forget the frames that wait."""
        self._stop.set()
        self._inbox.close()

    def join(self) -> None:
        """Wait for them, but not for one that hangs in a driver or in :attr:`tell`."""
        self._watch.join(_JOIN)
        for reader in self._readers:
            reader.join()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def notes(self, place: int) -> Notes:
        return self._readers[place].notes

    def sleep_until(self, when: float) -> None:
        while self.clock() < when and not self._stop.wait(_TICK):
            pass

    def _watching(self) -> None:
        try:
            while not self._stop.wait(_TICK):
                if self.stop_asked:
                    self.stop()
                    self.tell("ending: what is being looked at is finished first")
                    return
                for reader in self._readers:
                    reader.look_for_a_stall()
        except BaseException as error:  # a defect: the run ends with it
            self.fail(error)


class _Reader:
    """Reads one source. Each attempt at a live one is a ``lap``; a thread that hung in an earlier lap is not heard."""

    def __init__(self, readers: Readers, place: int, source: Source, inbox: Inbox[Frame]) -> None:
        self._readers, self._place, self._source, self._inbox = readers, place, source, inbox
        self.notes = Notes()
        self._threads: list[Thread] = []
        self._lock = Lock()
        self._lap = 0
        self._failed = 0  # in a row
        self._number = 0
        self._started = 0.0
        self._waiting_since: float | None = None  # for the source; None while nothing is asked of it

    def start(self) -> None:
        self._started = self._readers.clock()
        self._launch(self._run, self._lap, None)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(_JOIN)

    def _launch(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = Thread(target=work, args=arguments, name=f"read {self._source.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, lap: int, fault: SourceError | None) -> None:
        """Read until the end; ``fault`` is what ended the lap before."""
        try:
            while True:
                if fault is not None and not self._pause(lap, fault):
                    break
                fault = self._read(lap)
                if not self._current(lap) or not self._inbox.wants(self._place):
                    break
                if not self._source.live:
                    if fault is not None:
                        self._note(str(fault))
                    break
                fault = fault or SourceError(f"{self._source.name} has ended")
        except BaseException as error:  # a defect: the run ends with it
            self._readers.fail(error)
        finally:
            if self._current(lap):
                self._inbox.end(self._place)

    def _current(self, lap: int) -> bool:
        return lap == self._lap and not self._readers.stopped

    def _read(self, lap: int) -> SourceError | None:
        """One lap through the source; what ended it, if it did not end by itself."""
        self._wait_for_source(lap, True)
        try:
            with closing(self._source.read(lambda problem: self._note(str(problem)))) as frames:
                for number, seconds, image in frames:
                    self._wait_for_source(lap, False)
                    if not self._give(lap, number, seconds, image):
                        return None
                    self._wait_for_source(lap, True)
        except SourceError as error:
            return error
        finally:
            self._wait_for_source(lap, False)
        return None

    def _wait_for_source(self, lap: int, waiting: bool) -> None:
        with self._lock:
            if lap == self._lap:
                self._waiting_since = self._readers.clock() if waiting else None

    def _give(self, lap: int, number: int, seconds: float, image: Image) -> bool:
        now = self._readers.clock()
        if not self._source.live:
            return self._inbox.put(self._place, Frame(number, seconds, image, now)) and self._current(lap)
        with self._lock:  # a live source's place never makes anyone wait
            if not self._current(lap):
                return False
            frame = Frame(self._number, now - self._started, image, now)
            self._number += 1
            back, self._failed = self._failed > 0, 0
            if back:
                self._inbox.set_away(self._place, False)
            wanted = self._inbox.put(self._place, frame)
        if back:
            self._readers.tell(f"{self._source.name} is back")
        return wanted

    def _pause(self, lap: int, fault: SourceError) -> bool:
        """Tell the fault and wait; False when there is no further attempt."""
        settings = self._readers.settings
        self._failed += 1
        if settings.attempts is not None and self._failed >= settings.attempts:
            self._note(f"{fault}\n{self._source.name} is given up after {counted(self._failed, 'failure')} in a row")
            return False
        doublings = min(self._failed - 1, _MOST_DOUBLINGS)
        pause = min(settings.first_pause * 2.0**doublings, settings.longest_pause)
        until = self._readers.clock() + pause
        self._note(f"{fault}\n{self._source.name} is tried again in {pause:g} s")
        self._inbox.set_away(self._place, True)
        self._readers.sleep_until(until)
        return self._current(lap)

    def look_for_a_stall(self) -> None:
        """Give up waiting for a source that has given nothing for too long."""
        stall = self._readers.settings.stall
        with self._lock:
            since = self._waiting_since
            if since is None or self._readers.clock() - since < stall:
                return
            if self._source.live and sum(thread.is_alive() for thread in self._threads) >= _STUCK_MOST:
                return
            self._waiting_since = None
            if self._source.live:
                self._lap += 1
        message = f"{self._source.name} has given nothing for {stall:g} s"
        if self._source.live:
            self._launch(self._run, self._lap, SourceError(message))
        else:
            self._launch(self._tell_aside, f"{message}; it is still waited for")

    def _tell_aside(self, message: str) -> None:
        try:
            self._note(message)
        except BaseException as error:  # as in a reading thread
            self._readers.fail(error)

    def _note(self, message: str) -> None:
        self.notes.add(message)
        self._readers.tell(message)
