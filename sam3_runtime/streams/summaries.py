"""The summary of a run, for each source and in total: frames, frames per second, latency, dropped frames, problems.

Latency is from reading a frame to its detections, waiting included. It is counted in a histogram, so that a run may go
on for weeks. Pure: standard library and pydantic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sam3_runtime.records.records import Record

_STEP = 1.01  # the width of a bin: a latency is known to 1 %
_NONE = "–"


class SourceSummary(Record):
    """One source, or all of them together. ``fps`` is over the time of the whole run; latency is in milliseconds."""

    source: str
    frames: int
    fps: float
    latency_p50: float | None
    latency_p95: float | None
    dropped: int
    failures: int
    problems: tuple[str, ...] = ()


class RunSummary(Record):
    """A whole run. ``rounds`` is the number of batches, ``found`` the number of detections of each class."""

    seconds: float
    rounds: int
    sources: tuple[SourceSummary, ...]
    total: SourceSummary
    found: dict[str, int]


class Tally:
    """The frames of one source, and their latencies to within 1 %."""

    def __init__(self, bins: Counter[int] | None = None) -> None:
        self._bins = bins or Counter()

    def add(self, latency: float) -> None:
        """Count a frame whose detections took ``latency`` seconds."""
        self._bins[round(math.log(max(latency, 1e-6), _STEP))] += 1

    def __add__(self, other: Tally) -> Tally:
        return Tally(self._bins + other._bins)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return self._bins.total()

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of the latencies in milliseconds; None without any frame."""
        wanted, seen = self.frames * percent / 100, 0
        for exponent in sorted(self._bins):
            seen += self._bins[exponent]
            if seen >= wanted:
                return round(float(_STEP**exponent) * 1e3, 1)
        return None

    def summary(
        self, source: str, seconds: float, *, dropped: int, failures: int, problems: Sequence[str] = ()
    ) -> SourceSummary:
        """Return the summary of a run that took ``seconds``."""
        return SourceSummary(
            source=source, frames=self.frames, fps=round(self.frames / seconds, 2) if seconds else 0.0,
            latency_p50=self.percentile(50), latency_p95=self.percentile(95),
            dropped=dropped, failures=failures, problems=tuple(problems),
        )  # fmt: skip


def rows_of(summary: RunSummary) -> list[dict[str, str]]:
    """Return a table: a row for each source, and one in total where there are several.

    A column without any value is left out.
    """
    lines = [*summary.sources, *([summary.total] if len(summary.sources) > 1 else [])]
    rows = [
        {
            "source": one.source,
            "frames": str(one.frames),
            "fps": f"{one.fps:.2f}",
            "latency p50 ms": _NONE if one.latency_p50 is None else f"{one.latency_p50:.1f}",
            "p95 ms": _NONE if one.latency_p95 is None else f"{one.latency_p95:.1f}",
            "dropped": str(one.dropped),
            "failures": str(one.failures),
        }
        for one in lines
    ]
    return [{name: cell for name, cell in row.items() if any(other[name] != _NONE for other in rows)} for row in rows]
