"""A backend for tests: simple arithmetic on the inputs, which is the family's (``fake.py``). Shipped.

It does not read the engine's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3_runtime.engines.running.base import Array, Engine
from sam3_runtime.families import module_of
from sam3_runtime.records.records import EngineRecord


class FakeEngine(Engine):
    """See the module. ``calls`` counts the runs."""

    concurrent = True

    def __init__(self, record: EngineRecord) -> None:
        super().__init__(record)
        self.calls = 0
        self.closed = False

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        outputs: dict[str, Array] = module_of(self.record.family, "fake").outputs(self.record, feeds)
        return outputs

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


def check_engine(_path: Path, _record: EngineRecord) -> None:
    """Accept any engine."""


def open_engine(_path: Path, record: EngineRecord, *_: Any) -> FakeEngine:
    """Open the fake of an engine."""
    return FakeEngine(record)
