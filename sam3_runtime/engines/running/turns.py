"""Whose turn it is to run the engines of a model. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from sam3_runtime.core.errors import EngineError


class Turns:
    """Who may run the engines of a pipeline: one at a time, or, where they are ``concurrent``, everybody.

    A turn is never held while the caller's own code runs, ``stages`` and ``take`` excepted.
    """

    def __init__(self, concurrent: bool) -> None:
        self.concurrent = concurrent
        self._lock = Lock()
        self._thread: int | None = None
        self._count = 0

    @contextmanager
    def take(self) -> Iterator[int]:
        """Wait for a turn; gives its number, by which who comes again knows whether others came in between.

        :class:`EngineError` in the thread that has the turn, which would wait for itself.
        """
        if self.concurrent:
            yield 0
            return
        if self._thread == get_ident():
            raise EngineError(
                "a pipeline was called by what it calls itself, `stages` or `take`: on a GPU that would wait for ever",
                "note what to look at, and call the pipeline once this call is through",
            )
        with self._lock:
            self._thread = get_ident()
            self._count += 1
            try:
                yield self._count
            finally:
                self._thread = None
