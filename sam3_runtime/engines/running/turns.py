"""Turns of the threads that run the engines of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from sam3_runtime.core.errors import EngineError


class Turns:
    """Lets one thread at a time run the engines of a pipeline, or, where they are ``concurrent``, all.

    A turn is not held while the caller's own code runs, ``stages`` and ``take`` excepted.
    """

    def __init__(self, concurrent: bool) -> None:
        self.concurrent = concurrent
        self._lock = Lock()
        self._thread: int | None = None
        self._count = 0

    @contextmanager
    def take(self) -> Iterator[int]:
        """Wait for a turn; yields its number, which shows on the next turn whether others came in between.

        Raises :class:`EngineError` in the thread that has the turn, which would wait for itself.
        """
        if self.concurrent:
            yield 0
            return
        if self._thread == get_ident():
            raise EngineError(
                "a pipeline was called from its own `stages` or `take`, which on a GPU would wait for ever",
                "call the pipeline again once this call has returned",
            )
        with self._lock:
            self._thread = get_ident()
            self._count += 1
            try:
                yield self._count
            finally:
                self._thread = None
