"""What is counted of a run, in little memory however long it is."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.streams.summaries import RunSummary, Tally, rows_of


@pytest.mark.parametrize("percent", [1, 50, 95, 99, 100])
def test_percentiles_are_known_to_a_hundredth(percent: int) -> None:
    samples = np.random.default_rng(0).lognormal(-3, 1, 20_000)
    tally = Tally()
    for sample in samples:
        tally.add(float(sample))
    wanted = float(np.percentile(samples, percent)) * 1e3
    assert tally.percentile(percent) == pytest.approx(wanted, rel=0.011, abs=0.06)
    assert tally.frames == 20_000
    assert len(tally._bins) < 1500


def test_nothing_measured() -> None:
    assert Tally().percentile(50) is None
    assert Tally().summary("a", 0.0, dropped=0, failures=0).latency_p50 is None


def test_a_table_of_one_and_of_several() -> None:
    tallies = [Tally(), Tally()]
    for latency in (0.1, 0.2, 0.4):
        tallies[0].add(latency)
    lines = [tally.summary(name, 2.0, dropped=3, failures=1) for tally, name in zip(tallies, "ab", strict=True)]
    total = (tallies[0] + tallies[1]).summary("total", 2.0, dropped=6, failures=2)
    run = RunSummary(seconds=2.0, rounds=3, sources=tuple(lines), total=total, found={})
    rows = rows_of(run)
    assert [row["source"] for row in rows] == ["a", "b", "total"]
    assert list(rows[1].values()) == ["b", "0", "0.00", "–", "–", "3", "1"]
    assert list(rows[2].values())[:3] == ["total", "3", "1.50"]
    assert float(rows[0]["latency p50 ms"]) == pytest.approx(200, rel=0.01)
    assert all(list(row) == list(rows[0]) for row in rows)
    nothing = run.sources[1:]
    assert [list(row.values()) for row in rows_of(run.model_copy(update={"sources": nothing}))] == [
        ["b", "0", "0.00", "3", "1"]
    ], "no column of what no source has"
