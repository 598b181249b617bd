from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from sam3_runtime.quantize.ranges import BINS, LEVELS, Histogram, entropy_edges, find_ranges, percentile_edges  # noqa: E402

N = 200_000


def histogram(*tensors: torch.Tensor) -> Histogram:
    made = Histogram()
    for tensor in tensors:
        made.add(tensor)
    return made


def drawn(name: str, count: int = N) -> torch.Tensor:
    torch.manual_seed(0)
    draws = {
        "normal": torch.randn(count),
        "uniform": torch.rand(count) * 2 - 1,
        "laplace": torch.distributions.Laplace(0.0, 1.0).sample((count,)),
    }
    return draws[name]


# The histogram ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 777.0])
@pytest.mark.parametrize("pieces", [2, 7, 50])
def test_growing_step_by_step_counts_what_one_histogram_of_everything_counts(pieces: int, scale: float) -> None:
    values = drawn("laplace") * scale
    values = values[values.abs().argsort()]  # smallest first: the span doubles again and again
    once, grown, backwards = histogram(values), histogram(*values.chunk(pieces)), histogram(*values.chunk(pieces)[::-1])
    for other in (grown, backwards):
        assert other.amax == once.amax
        assert other.limit == once.limit
        assert torch.equal(other.counts, once.counts)


def test_growing_by_more_than_the_number_of_bins_keeps_every_value() -> None:
    counted = histogram(torch.full((5,), 1e-6), torch.tensor([-1000.0]))
    assert counted.counts[0] == 5
    assert counted.counts.sum() == 6
    assert counted.limit == 1024


def test_bins_hold_absolute_values_and_the_largest_is_in_the_upper_half() -> None:
    counted = histogram(torch.tensor([[-1.0, 0.25], [3.0, -3.0]]))
    assert counted.limit == 4.0
    places = counted.counts.nonzero().flatten().tolist()
    assert places == [BINS // 16, BINS // 4, BINS * 3 // 4]
    assert counted.counts[BINS * 3 // 4] == 2


def test_zeros_are_not_counted() -> None:
    values = drawn("normal")
    padded = torch.cat([torch.zeros(10 * N), values])
    assert torch.equal(histogram(padded).counts, histogram(values).counts)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(3), torch.zeros(2, 3)])
def test_nothing_but_zeros_has_range_zero(values: torch.Tensor) -> None:
    for algorithm in ("entropy", "minmax", "percentile"):
        assert find_ranges([histogram(values)], algorithm, 99.0) == [0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_shows_in_the_largest(value: float) -> None:
    found = histogram(torch.tensor([1.0]), torch.tensor([1.0, value]), torch.tensor([2.0]))
    assert not math.isfinite(found.amax)


def test_half_precision_is_counted_like_float() -> None:
    values = drawn("normal").half()
    assert torch.equal(histogram(values).counts, histogram(values.float()).counts)


# The ranges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal", "uniform", "laplace"])
def test_minmax_is_the_largest_value(name: str) -> None:
    values = drawn(name)
    assert find_ranges([histogram(values)], "minmax") == [float(values.abs().max())]


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("name", ["normal", "uniform", "laplace"])
def test_percentile_is_that_of_the_sorted_values(name: str, percentile: float) -> None:
    values = drawn(name)
    (found,) = find_ranges([histogram(values)], "percentile", percentile)
    expected = float(values.abs().double().quantile(percentile / 100))
    assert found == pytest.approx(expected, abs=2 * histogram(values).limit / BINS)


def test_percentile_between_two_bins_is_interpolated() -> None:
    counts = torch.zeros(1, BINS)
    counts[0, 10] = 100
    assert percentile_edges(counts, 25.0).tolist() == [10.25]


def test_entropy_keeps_all_of_a_uniform_distribution() -> None:
    (found,) = find_ranges([histogram(drawn("uniform"))], "entropy")
    assert found == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("name", "low", "high"), [("normal", 3.0, 5.0), ("laplace", 5.0, 14.0)])
def test_entropy_cuts_a_tail_and_no_more(name: str, low: float, high: float) -> None:
    (found,) = find_ranges([histogram(drawn(name))], "entropy")
    assert low < found <= high


def test_entropy_ignores_a_lone_outlier() -> None:
    values = drawn("normal")
    (found,) = find_ranges([histogram(values, torch.tensor([100.0]))], "entropy")
    assert found < 6


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_ranges_scale_with_the_values(factor: float) -> None:
    values = drawn("laplace")
    for algorithm in ("entropy", "minmax", "percentile"):
        (one,) = find_ranges([histogram(values)], algorithm, 99.9)
        (other,) = find_ranges([histogram(values * factor)], algorithm, 99.9)
        assert other == pytest.approx(one * factor)


def test_searching_many_at_once_is_searching_each() -> None:
    many = [histogram(drawn(name) * scale) for name, scale in (("normal", 0.3), ("uniform", 40), ("laplace", 1))]
    together = find_ranges(many, "entropy")
    assert together == [find_ranges([one], "entropy")[0] for one in many]


def test_entropy_agrees_with_the_definition_written_out() -> None:
    counts = histogram(drawn("normal", 3000)).counts.double()
    candidates = range(LEVELS, BINS + 1, 4)
    divergences = [_divergence(counts, kept) for kept in candidates]
    best = candidates[min(range(len(divergences)), key=divergences.__getitem__)]
    assert entropy_edges(counts.unsqueeze(0)).tolist() == [best]


def _divergence(counts: torch.Tensor, kept: int) -> float:
    """Kullback-Leibler divergence, bin by bin, without any of the module's cumulated sums."""
    if kept > int(counts.nonzero().max()) + 1:
        return math.inf
    reference = counts[:kept].clone()
    reference[-1] += counts[kept:].sum()
    quantised = torch.zeros(kept, dtype=torch.float64)
    for level in range(LEVELS):
        bins = slice(kept * level // LEVELS, kept * (level + 1) // LEVELS)
        filled = reference[bins] > 0
        if filled.any():
            quantised[bins] = torch.where(filled, counts[:kept][bins].sum() / filled.sum(), 0.0)
    p, q = reference / reference.sum(), quantised / quantised.sum()
    return float(torch.where(p > 0, p * torch.log(p / q), 0.0).sum())


def test_percentile_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="percentile"):
        find_ranges([histogram(drawn("normal"))], "percentile")
