"""An engine that frees its memory while it is not needed, and is opened again when it runs.

The text encoder has a third of a variant's weights and runs once for each vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.base import AnyArray, Engine


class OnDemandEngine(Engine):
    """Wraps ``engine``, and the one that ``reopen`` gives when it runs after a :meth:`release`, until it is closed."""

    def __init__(self, engine: Engine, reopen: Callable[[], Engine]) -> None:
        super().__init__(engine.record)
        self.variant = engine.variant
        self._engine: Engine | None = engine
        self._reopen: Callable[[], Engine] | None = reopen

    @property
    def loaded(self) -> bool:
        """Whether the engine is in memory."""
        return self._engine is not None

    def _run(self, feeds: Mapping[str, Any]) -> Mapping[str, AnyArray]:
        if self._reopen is None:
            raise EngineError(f"the {self.record.part} is closed", "open the variant again")
        if self._engine is None:
            self._engine = self._reopen()
        return self._engine.infer(feeds)

    def release(self) -> None:
        """Free the engine's memory until it runs again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def close(self) -> None:
        """Free the engine for good."""
        self._reopen = None
        self.release()
