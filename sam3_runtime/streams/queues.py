"""Bounded queues between the threads of a run: from several readers into batches, and from one thread to another.

The reader of a file waits while its queue is full, so that no frame is lost; a live source drops its oldest frame.
``close()`` wakes all waiting threads. Independent of the content of frames.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _SourceQueue(Generic[T]):
    """The waiting frames of one source. ``remaining``: how many more may be taken."""

    live: bool
    capacity: int
    remaining: float
    waiting: deque[T] = field(default_factory=deque)
    ended: bool = False
    unavailable: bool = False
    dropped: int = 0

    @property
    def full(self) -> bool:
        return len(self.waiting) >= self.capacity

    @property
    def accepts(self) -> bool:
        return not self.ended and (self.live or len(self.waiting) < self.remaining)


class Inbox(Generic[T]):
    """Frames that were read and not yet processed: a queue for each source, taken from in batches.

    ``live`` has one entry for each source: whether only its newest frame is wanted. ``capacity`` is how many frames of
    a file may wait (of a live source it is one), ``limit`` the most frames that are taken of each source.
    """

    def __init__(self, live: Sequence[bool], capacity: int = 2, limit: int | None = None) -> None:
        most = math.inf if limit is None else limit
        self._queues: list[_SourceQueue[T]] = [_SourceQueue(one, 1 if one else capacity, most) for one in live]
        self._changed = Condition()
        self._closed = False
        self._next = 0  # the source that is taken from first

    def put(self, source: int, item: T) -> bool:
        """Add a frame of ``source`` (its index); waits while the queue of a file is full. False: no more are wanted."""
        queue = self._queues[source]
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not queue.accepts or queue.live or not queue.full)
            if self._closed or not queue.accepts:
                return False
            if queue.full:
                queue.waiting.popleft()
                queue.dropped += 1
            queue.waiting.append(item)
            self._changed.notify_all()
            return True

    def take(self, most: int, patience: float, wait: bool = True) -> list[tuple[int, T]]:
        """Take the next batch: at most ``most`` frames with the indices of their sources; empty at the end of the run.

        Waits for a first frame, and then up to ``patience`` seconds for those of the other sources. Sources take
        turns; a batch begins with the source after the last one of the batch before. With ``wait=False`` it returns a
        batch only if no more frames are expected for it, and else none.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._count() or all(one.ended for one in self._queues))
            if not self._changed.wait_for(lambda: self._complete(most), patience if wait else 0) and not wait:
                return []
            taken = [] if self._closed else self._take_in_turn(most)
            self._changed.notify_all()
            return taken

    def _complete(self, most: int) -> bool:
        expected = any(not (one.ended or one.unavailable or one.full) for one in self._queues)
        return self._closed or self._count() >= most or not expected

    def _take_in_turn(self, most: int) -> list[tuple[int, T]]:
        taken: list[tuple[int, T]] = []
        while len(taken) < most and self._count():
            index, self._next = self._next, (self._next + 1) % len(self._queues)
            queue = self._queues[index]
            if queue.waiting:
                taken.append((index, queue.waiting.popleft()))
                queue.remaining -= 1
                if queue.remaining == 0:
                    queue.ended = True
                    queue.waiting.clear()
        return taken

    def end(self, source: int) -> None:
        """Add no more frames of this source; waiting ones are still taken."""
        with self._changed:
            self._queues[source].ended = True
            self._changed.notify_all()

    def exhausted(self) -> list[int]:
        """Return the sources of which nothing more will be taken."""
        with self._changed:
            return [index for index, queue in enumerate(self._queues) if queue.ended and not queue.waiting]

    def set_unavailable(self, source: int, unavailable: bool) -> None:
        """Have no batch wait for frames of this source while it is ``unavailable``."""
        with self._changed:
            self._queues[source].unavailable = unavailable
            self._changed.notify_all()

    def accepts(self, source: int) -> bool:
        """Return whether the inbox still accepts frames of this source."""
        with self._changed:
            return not self._closed and self._queues[source].accepts

    def close(self) -> None:
        """Drop all waiting frames, and wake all waiting threads."""
        with self._changed:
            self._closed = True
            for queue in self._queues:
                queue.waiting.clear()
            self._changed.notify_all()

    def dropped(self, source: int) -> int:
        """Return how many frames of a live source were replaced by newer ones."""
        return self._queues[source].dropped

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues)


class Channel(Generic[T]):
    """A queue of at most ``capacity`` items from one thread to another."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[T] = deque()
        self._changed = Condition()
        self._ended = self._closed = False

    def put(self, item: T) -> bool:
        """Add an item; waits while the queue is full. False once the receiver has closed it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._capacity)
            if not self._closed:
                self._waiting.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self) -> T | None:
        """Wait for the next item; None after the last one."""
        with self._changed:
            # A wait without a timeout would keep Ctrl-C from the main thread on Windows.
            while not self._changed.wait_for(lambda: self._waiting or self._ended, 0.2):
                pass
            item = self._waiting.popleft() if self._waiting else None
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Close the sender's side: the waiting items are the last."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the receiver's side: drop all items, and accept no more."""
        with self._changed:
            self._ended = self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting)
