"""Reads sources, each in its own thread, into an inbox, and reopens live sources that fail.

A live source that ends, fails or stalls is reported and tried again after a pause, which grows from one failure to the
next. A file is read once. All times come from one clock, which tests replace. ``report`` is the caller's code and may
block: it is called without a lock, and during a run never by the thread that watches for stalls. Independent of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import Frame
from sam3_runtime.streams.cameras import Source
from sam3_runtime.streams.queues import Inbox

_TICK = 0.05  # seconds between two readings of the clock
_STUCK_MOST = 3  # threads of one source that may hang in its driver: no call of OpenCV can be interrupted
_JOIN = 2.0  # seconds to wait for a thread at the end of the run; one that hangs is left behind
_MOST_DOUBLINGS = 64  # of a pause: 2.0 ** 1024 overflows, and a camera may fail more often than that
_MOST_PROBLEMS = 100  # messages of one source that are stored: a camera may fail for weeks

Report = Callable[[str], None]


class ReadFrame(NamedTuple):
    """A frame in a run.

    ``number`` counts all frames of its source, dropped ones included; ``seconds`` is its time in the source, and
    ``read`` the clock's time when it was read.
    """

    number: int
    seconds: float
    image: Image
    read: float


@dataclass(frozen=True)
class LiveSettings:
    """How live sources are reopened, in seconds.

    A source without a frame for ``stall`` counts as failed. After a failure it is tried again in ``first_pause``, which
    doubles up to ``longest_pause``; after ``attempts`` failures in a row it is given up (never, where None).
    """

    stall: float = 10.0
    first_pause: float = 1.0
    longest_pause: float = 30.0
    attempts: int | None = None


class Readers:
    """The reading threads of a run, one for each of ``sources``. ``fail`` is called with every unexpected exception."""

    def __init__(
        self,
        sources: Sequence[Source],
        inbox: Inbox[ReadFrame],
        settings: LiveSettings,
        report: Report,
        fail: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = Event()
        self.stop_requested = False
        """Set to have all threads end soon; a signal handler may do no more than that."""
        self._inbox = inbox
        self.clock, self.settings, self.report, self.fail = clock, settings, report, fail
        self.readers = [_Reader(self, index, source, inbox) for index, source in enumerate(sources)]
        self._watch = Thread(target=self._watching, name="watch", daemon=True)

    def start(self) -> None:
        """Start all threads."""
        for reader in self.readers:
            reader.start()
        self._watch.start()

    def stop(self) -> None:
        """Have all threads end, and drop the waiting frames."""
        self._stop.set()
        self._inbox.close()

    def join(self) -> None:
        """Wait for the threads, except for those that hang in a driver or in :attr:`report`."""
        for thread in (self._watch, *(thread for reader in self.readers for thread in reader.threads)):
            thread.join(_JOIN)

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    def sleep_until(self, when: float) -> None:
        """Wait until the clock shows ``when``, or until the threads are to end."""
        while self.clock() < when and not self._stop.wait(_TICK):
            pass

    def _watching(self) -> None:
        try:
            while not self._stop.wait(_TICK):
                if self.stop_requested:
                    self.stop()
                    self.report("stopping: the current batch is finished first")
                    return
                for reader in self.readers:
                    reader.check_for_stall()
        except BaseException as error:  # a defect: the run ends with it
            self.fail(error)


class _Reader:
    """Reads one source.

    Each opening of a live source is a numbered attempt; frames of a thread that hung in an earlier attempt are ignored.
    ``failures`` counts the problems, ``problems`` are the messages of the first ones.
    """

    def __init__(self, readers: Readers, index: int, source: Source, inbox: Inbox[ReadFrame]) -> None:
        self._readers, self._index, self._source, self._inbox = readers, index, source, inbox
        self.failures = 0
        self.problems: list[str] = []
        self.threads: list[Thread] = []
        self._lock = Lock()
        self._attempt = 0
        self._failures_in_a_row = 0
        self._number = 0
        self._started = 0.0
        self._waiting_since: float | None = None  # for a frame of the source; None while none is requested

    def start(self) -> None:
        """Start the first attempt."""
        self._started = self._readers.clock()
        self._launch(self._run, self._attempt, None)

    def _launch(self, work: Callable[..., None], *arguments: Any) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # a defect: the run ends with it
                self._readers.fail(error)

        self.threads = [thread for thread in self.threads if thread.is_alive()]
        self.threads.append(Thread(target=guarded, name=f"read {self._source.name}", daemon=True))
        self.threads[-1].start()

    def _run(self, attempt: int, fault: SourceError | None) -> None:
        """Read until the end; ``fault`` is the error that ended the attempt before."""
        while fault is None or self._pause(attempt, fault):
            fault = self._read(attempt)
            if not self._is_current(attempt) or not self._inbox.accepts(self._index):
                break
            if not self._source.live:
                if fault is not None:
                    self._add_problem(str(fault))
                break
            fault = fault or SourceError(f"{self._source.name} has ended")
        if self._is_current(attempt):
            self._inbox.end(self._index)

    def _is_current(self, attempt: int) -> bool:
        return attempt == self._attempt and not self._readers.stopped

    def _read(self, attempt: int) -> SourceError | None:
        """Read the source once; return the error that ended it, if any."""
        self._set_waiting(attempt, True)
        try:
            with closing(self._source.read(lambda problem: self._add_problem(str(problem)))) as frames:
                for frame in frames:
                    self._set_waiting(attempt, False)
                    if not self._deliver(attempt, frame):
                        return None
                    self._set_waiting(attempt, True)
        except SourceError as error:
            return error
        finally:
            self._set_waiting(attempt, False)
        return None

    def _set_waiting(self, attempt: int, waiting: bool) -> None:
        with self._lock:
            if attempt == self._attempt:
                self._waiting_since = self._readers.clock() if waiting else None

    def _deliver(self, attempt: int, frame: Frame) -> bool:
        """Put a frame into the inbox; False when no more are wanted."""
        now = self._readers.clock()
        if not self._source.live:
            return self._inbox.put(self._index, ReadFrame(*frame, now)) and self._is_current(attempt)
        with self._lock:  # putting a live frame never waits
            if not self._is_current(attempt):
                return False
            recovered, self._failures_in_a_row = self._failures_in_a_row > 0, 0
            if recovered:
                self._inbox.set_unavailable(self._index, False)
            read = ReadFrame(self._number, now - self._started, frame.image, now)
            self._number += 1
            wanted = self._inbox.put(self._index, read)
        if recovered:
            self._readers.report(f"{self._source.name} is available again")
        return wanted

    def _pause(self, attempt: int, fault: SourceError) -> bool:
        """Report the fault and wait; False when there is no further attempt."""
        settings, name = self._readers.settings, self._source.name
        self._failures_in_a_row = failures = self._failures_in_a_row + 1
        if settings.attempts is not None and failures >= settings.attempts:
            self._add_problem(f"{fault}\n{name} is given up after {counted(failures, 'failure')} in a row")
            return False
        doublings = min(failures - 1, _MOST_DOUBLINGS)
        pause = min(settings.first_pause * 2.0**doublings, settings.longest_pause)
        until = self._readers.clock() + pause
        self._add_problem(f"{fault}\n{name} is tried again in {pause:g} s")
        self._inbox.set_unavailable(self._index, True)
        self._readers.sleep_until(until)
        return self._is_current(attempt)

    def check_for_stall(self) -> None:
        """Start another attempt at a live source that delivers no frame, and report such a file."""
        stall, live = self._readers.settings.stall, self._source.live
        with self._lock:
            since = self._waiting_since
            if since is None or self._readers.clock() - since < stall:
                return
            if live and sum(thread.is_alive() for thread in self.threads) >= _STUCK_MOST:
                return
            self._waiting_since = None
            if live:
                self._attempt += 1
        message = f"{self._source.name} has delivered no frame for {stall:g} s"
        if live:
            self._launch(self._run, self._attempt, SourceError(message))
        else:
            self._launch(self._add_problem, f"{message}; still waiting for it")

    def _add_problem(self, message: str) -> None:
        self.failures += 1
        if self.failures <= _MOST_PROBLEMS:
            self.problems.append(message)
        self._readers.report(message)
