"""Bounded queues between the threads of a run: from several readers into rounds, and from one thread to another.

A full place of a file makes its reader wait, so that nothing is lost; that of a live source gives its oldest frame up,
so that the newest is looked at. Nobody waits for ever: closing wakes everyone. Knows threads, and nothing of frames.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Place(Generic[T]):
    """Where one source's frames wait. ``left``: how many more may be taken, None for all."""

    live: bool
    room: int
    left: int | None
    waiting: deque[T] = field(default_factory=deque)
    ended: bool = False
    away: bool = False
    dropped: int = 0

    @property
    def expected(self) -> bool:
        """Whether a round should wait a moment for another frame of it."""
        return not self.ended and not self.away and len(self.waiting) < self.room

    def takes_more(self) -> bool:
        return not self.ended and (self.live or self.left is None or len(self.waiting) < self.left)


class Inbox(Generic[T]):
    """What was read and not yet looked at: a place for each source, taken from in rounds.

    ``live`` says of each source whether its newest frame wins; ``room`` is how many frames of a file may wait (of a
    live source it is one), ``limit`` the most that are taken of each source.
    """

    def __init__(self, live: Sequence[bool], room: int = 2, limit: int | None = None) -> None:
        self._places: list[_Place[T]] = [_Place(one, 1 if one else room, limit) for one in live]
        self._changed = Condition()
        self._closed = False
        self._next = 0  # whose turn it is

    def put(self, place: int, item: T) -> bool:
        """Add a frame of source ``place``; waits for room where nothing may be lost. False: no more are wanted."""
        with self._changed:
            one = self._places[place]
            while not self._closed and one.takes_more() and not one.live and len(one.waiting) >= one.room:
                self._changed.wait()
            if self._closed or not one.takes_more():
                return False
            if len(one.waiting) >= one.room:
                one.waiting.popleft()
                one.dropped += 1
            one.waiting.append(item)
            self._changed.notify_all()
            return True

    def take(self, most: int, patience: float, wait: bool = True) -> list[tuple[int, T]]:
        """The next round: at most ``most`` frames with their sources' places; empty when no more will come.

        Waits for a first frame, and then up to ``patience`` seconds for those of the other sources. Sources take
        turns, and the first in a round is the one behind the last round's last. Without ``wait`` it gives a round that
        need not be waited for, and is empty where there is none.
        """
        with self._changed:
            while wait and not self._closed and not self._count() and not all(place.ended for place in self._places):
                self._changed.wait()
            until = time.monotonic() + patience
            while not self._closed and self._count() < most and any(place.expected for place in self._places):
                if not wait:
                    return []
                remaining = until - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            if self._closed:
                return []
            taken = self._take_in_turn(most)
            self._changed.notify_all()
            return taken

    def _take_in_turn(self, most: int) -> list[tuple[int, T]]:
        taken: list[tuple[int, T]] = []
        skipped = 0
        while len(taken) < most and skipped < len(self._places):
            index = self._next
            place = self._places[index]
            self._next = (index + 1) % len(self._places)
            if not place.waiting:
                skipped += 1
                continue
            skipped = 0
            taken.append((index, place.waiting.popleft()))
            if place.left is not None:
                place.left -= 1
                if place.left == 0:
                    place.ended = True
                    place.waiting.clear()
        return taken

    def end(self, place: int) -> None:
        """No more frames of this source will come; what waits is still taken."""
        with self._changed:
            self._places[place].ended = True
            self._changed.notify_all()

    def exhausted(self) -> list[int]:
        """The sources of which nothing more will be taken."""
        with self._changed:
            return [index for index, place in enumerate(self._places) if place.ended and not place.waiting]

    def set_away(self, place: int, away: bool) -> None:
        """Whether this source gives nothing for now: no round waits for it then."""
        with self._changed:
            self._places[place].away = away
            self._changed.notify_all()

    def wants(self, place: int) -> bool:
        """Whether frames of this source are still taken."""
        with self._changed:
            return not self._closed and self._places[place].takes_more()

    def close(self) -> None:
        """End at once: what waits is dropped, and nobody waits any more."""
        with self._changed:
            self._closed = True
            for place in self._places:
                place.waiting.clear()
            self._changed.notify_all()

    def dropped(self, place: int) -> int:
        """Frames of a live source that a newer one took the place of."""
        return self._places[place].dropped

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(len(place.waiting) for place in self._places)


class Channel(Generic[T]):
    """A queue of at most ``room`` things from one thread to another. Iterating ends once it has ended and is empty."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[T] = deque()
        self._changed = Condition()
        self._ended = self._closed = False

    def put(self, item: T) -> bool:
        """Wait for room and add; False once the other side has closed it."""
        with self._changed:
            while not self._closed and len(self._waiting) >= self._room:
                self._changed.wait()
            if self._closed:
                return False
            self._waiting.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> T | None:
        """Wait for the next; None when there will be none."""
        with self._changed:
            while not self._waiting and not self._ended and not self._closed:
                # A wait without an end would keep Ctrl-C from the main thread on Windows.
                self._changed.wait(0.2)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """The giving side is through."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """The taking side wants no more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting)
