"""What a run did, for each source and together: frames, frames a second, latency, dropped frames, problems.

Latency is from a frame's being read to its detections being there, waiting included. Samples are counted and not kept,
so that a run may go on for weeks. Pure: standard library and pydantic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sam3_runtime.records.records import Record

_STEP = 1.01  # a sample is known to within a hundredth


class Durations:
    """Percentiles of any number of durations, to within a hundredth."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self._counts[round(math.log(max(seconds, 1e-6), _STEP))] += 1

    def percentile(self, percent: float) -> float | None:
        """In seconds; None where there is no sample."""
        wanted = self._counts.total() * percent / 100 if self._counts else 0
        seen = 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                return float(_STEP**place)
        return None

    def merged(self, other: Durations) -> Durations:
        both = Durations()
        both._counts = self._counts + other._counts
        return both


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
    """A whole run. ``rounds`` is how many batches were looked at."""

    seconds: float
    rounds: int
    sources: tuple[SourceSummary, ...]
    total: SourceSummary
    found: dict[str, int]


class Tally:
    """What is counted of one source while it runs."""

    def __init__(self) -> None:
        self.frames = 0
        self.latency = Durations()

    def add(self, latency: float) -> None:
        """Count a frame, whose detections were there ``latency`` seconds after it was read."""
        self.frames += 1
        self.latency.add(latency)

    def merged(self, other: Tally) -> Tally:
        both = Tally()
        both.frames = self.frames + other.frames
        both.latency = self.latency.merged(other.latency)
        return both

    def summary(
        self, source: str, seconds: float, *, dropped: int, failures: int, problems: Sequence[str] = ()
    ) -> SourceSummary:
        return SourceSummary(
            source=source,
            frames=self.frames,
            fps=round(self.frames / seconds, 2) if seconds else 0.0,
            latency_p50=_milliseconds(self.latency.percentile(50)),
            latency_p95=_milliseconds(self.latency.percentile(95)),
            dropped=dropped,
            failures=failures,
            problems=tuple(problems),
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)


def rows_of(summary: RunSummary) -> list[dict[str, str]]:
    """A table for people: a row for each source, and one for all where there are several. A column in which none has a
    value, such as latency where no source gave a frame, is left out."""
    lines = [*summary.sources, *([summary.total] if len(summary.sources) > 1 else [])]
    rows = [
        {
            "source": one.source,
            "frames": str(one.frames),
            "fps": f"{one.fps:.2f}",
            "latency p50 ms": _cell(one.latency_p50),
            "p95 ms": _cell(one.latency_p95),
            "dropped": str(one.dropped),
            "failures": str(one.failures),
        }
        for one in lines
    ]
    return [{name: cell for name, cell in row.items() if any(other[name] != _NONE for other in rows)} for row in rows]


_NONE = "–"


def _cell(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"
