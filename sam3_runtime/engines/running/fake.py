"""A backend for tests: outputs made from the inputs by simple arithmetic, which is the family's (``fake.py``). Shipped.

It looks at nothing in the engine's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sam3_runtime.engines.running.base import Array, Device, Engine, EngineOptions
from sam3_runtime.families import module_of
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord


def check_engine(_path: Path, _record: EngineRecord, _rebuild: str) -> None:
    """Nothing keeps it from running."""


def open_engine(
    _path: Path, record: EngineRecord, _options: EngineOptions, _device: Device, variant: Variant | None, _rebuild: str
) -> FakeEngine:
    return FakeEngine(record, variant)


class FakeEngine(Engine):
    """See the module. ``calls`` counts the runs."""

    concurrent = True

    def __init__(self, record: EngineRecord, variant: Variant | None = None) -> None:
        super().__init__(record, variant)
        self.calls = 0
        self.closed = False

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        made: dict[str, Array] = module_of(self.record.family, "fake").outputs(self.record, feeds)
        return made

    def close(self) -> None:
        self.closed = True
