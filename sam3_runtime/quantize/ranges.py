"""Ranges of activations: how large their absolute values get, and how much of that 8 bits should cover.

Histograms are filled as tensors come, on the tensors' own device; the search for the range runs over all of them at
once, on the CPU in float64, so that its answer depends on the counts alone. Knows no model and no file.

A histogram spans 0 to a power of two and doubles its span when a value exceeds it, merging bins two by two. Bins of
the next span then contain whole bins of the last: what is counted depends neither on the order of the tensors nor on
how they were cut, and equals what one histogram of everything would say. Zeros are left out: they are exact at any
scale, and padding would outweigh everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Algorithm = Literal["entropy", "minmax", "percentile"]

BINS = 4096
"""At least half of them are in use: the largest value lies in the upper half of the span."""
LEVELS = 128
"""Absolute values that signed 8 bits tell apart."""
_LEAST_EXPONENT = -64  # spans below 2**-64 are not told apart; scaling stays finite in float32
_STRIDE = 4  # bins from one candidate of the entropy search to the next: a thousandth of the range
_CANDIDATES_AT_ONCE = 64  # of every tensor: the search takes about 10 MB an array for 150 tensors


class Histogram:
    """Counts of the absolute values, other than zero, of every tensor that was added; ``amax`` is their largest."""

    def __init__(self) -> None:
        self.amax = 0.0
        self._exponent = _LEAST_EXPONENT
        self._counts: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """int64 [BINS] on the CPU."""
        return torch.zeros(BINS, dtype=torch.int64) if self._counts is None else self._counts.cpu()

    @property
    def limit(self) -> float:
        """The upper end of the last bin, a power of two."""
        return math.ldexp(1.0, self._exponent)

    def add(self, values: Tensor) -> None:
        """Count ``values``, of any shape and floating type. ``ValueError`` when one of them is not finite."""
        if values.numel() == 0:
            return
        magnitudes = values.detach().abs().flatten().float()
        largest = float(magnitudes.max())  # NaN where any value is
        if not math.isfinite(largest):
            raise ValueError("not finite")
        self.amax = max(self.amax, largest)
        self._grow(max(math.frexp(largest)[1], _LEAST_EXPONENT))
        # A product with a power of two is exact: a value's bin is the same in every span, but for merging.
        bins = magnitudes.mul_(BINS / self.limit).to(torch.int32)
        counts = torch.bincount(bins, minlength=BINS)
        counts[0] -= magnitudes.numel() - torch.count_nonzero(magnitudes)
        self._counts = counts if self._counts is None else self._counts.add_(counts)

    def _grow(self, exponent: int) -> None:
        """Let the span reach to 2**exponent, which is more than any value so far."""
        if exponent <= self._exponent:
            return
        if self._counts is not None:
            merged = min(1 << (exponent - self._exponent), BINS)
            kept = self._counts.reshape(-1, merged).sum(1)
            self._counts = torch.nn.functional.pad(kept, (0, BINS - kept.numel()))
        self._exponent = exponent


def find_ranges(histograms: Sequence[Histogram], algorithm: Algorithm, percentile: float | None = None) -> list[float]:
    """The largest absolute value that each tensor's 8 bits should stand for; 0 where nothing but zeros was seen.

    ``entropy``: the range whose quantised distribution loses the least information (Kullback-Leibler divergence).
    ``percentile``: the range that holds that percentage of the values. ``minmax``: the largest value seen.
    """
    largest = [histogram.amax for histogram in histograms]
    if algorithm == "minmax" or not histograms:
        return largest
    counts = torch.stack([histogram.counts for histogram in histograms]).double()
    if algorithm == "entropy":
        edges = entropy_edges(counts)
    elif percentile is not None:
        edges = percentile_edges(counts, percentile)
    else:
        raise ValueError("percentile is not given")
    found = zip(edges.tolist(), histograms, strict=True)
    # The last bin in use reaches beyond the largest value; a range need not.
    return [min(edge * histogram.limit / BINS, histogram.amax) for edge, histogram in found]


def percentile_edges(counts: Tensor, percentile: float) -> Tensor:
    """For histograms [T, bins], the number of bins (not whole) below which ``percentile`` % of the counts lie: [T]."""
    cumulated = counts.cumsum(1)
    wanted = cumulated[:, -1:] * (percentile / 100)
    last = torch.searchsorted(cumulated, wanted).clamp_(max=counts.shape[1] - 1)
    inside = counts.gather(1, last)
    missing = cumulated.gather(1, last) - wanted
    return (last + 1 - missing / inside.clamp(min=1)).squeeze(1)


def entropy_edges(counts: Tensor) -> Tensor:
    """For histograms float64 [T, bins], how many bins to keep so that the least information is lost: [T].

    For each number of bins kept, the reference distribution is those bins with everything beyond added to the last;
    the quantised one spreads each level's count evenly over those of its bins that are not empty. Both divergence
    terms are sums over stretches of bins, so cumulated sums give each candidate in ``LEVELS`` steps.
    """
    sums = _Cumulated(counts)
    best = torch.full((counts.shape[0],), math.inf, dtype=torch.float64)
    edges = torch.zeros(counts.shape[0], dtype=torch.int64)
    candidates = torch.arange(LEVELS, counts.shape[1] + 1, _STRIDE)
    for first in range(0, len(candidates), _CANDIDATES_AT_ONCE):
        kept = candidates[first : first + _CANDIDATES_AT_ONCE]
        divergence, place = _divergences(sums, kept).min(dim=1)
        better = divergence < best
        best = torch.where(better, divergence, best)
        edges = torch.where(better, kept[place], edges)
    return edges


class _Cumulated:
    """Of histograms [T, bins]: sums over the first 0 … bins bins, each [T, bins + 1]."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts
        self.total = counts.sum(1, keepdim=True)
        self.mass = _with_zero(counts.cumsum(1))
        self.filled = _with_zero((counts > 0).double().cumsum(1))
        self.self_information = _with_zero(torch.xlogy(counts, counts).cumsum(1))
        used = torch.where(counts > 0, torch.arange(1, counts.shape[1] + 1), 0).amax(1, keepdim=True)
        self.used = used.clamp(min=LEVELS)


def _with_zero(sums: Tensor) -> Tensor:
    return torch.nn.functional.pad(sums, (1, 0))


def _divergences(sums: _Cumulated, kept: Tensor) -> Tensor:
    """Divergence [T, K] of keeping each number of bins in ``kept`` [K]; infinite beyond the last bin in use."""
    inside = sums.mass[:, kept]
    beyond = sums.total - inside
    last = sums.counts[:, kept - 1]
    # The reference: Σ p log p, with p = counts / total and the last bin enlarged.
    reference = sums.self_information[:, kept - 1] + torch.xlogy(last + beyond, last + beyond)
    # The quantised one: Σ p log q, level by level.
    bounds = kept.unsqueeze(1) * torch.arange(LEVELS + 1) // LEVELS
    level = sums.mass[:, bounds].diff(dim=2)
    filled = sums.filled[:, bounds].diff(dim=2)
    filled[:, :, -1] += ((last == 0) & (beyond > 0)).double()
    reference_level = level.clone()
    reference_level[:, :, -1] += beyond
    density = torch.log(level / filled.clamp(min=1)) - torch.log(inside).unsqueeze(2)
    crossed = torch.where(reference_level > 0, reference_level * density, 0.0).sum(2)
    divergence = (reference - crossed) / sums.total - torch.log(sums.total)
    impossible = (kept > sums.used) | divergence.isnan()
    return torch.where(impossible, math.inf, divergence)
