"""Ranges of activations: how large their absolute values get, and how much of that 8 bits should cover.

Histograms are filled as tensors come, on the tensors' own device, and nothing there waits for the host; the search for
the range runs over all of them at once on that device, in float64, so that its answer depends on the counts alone.
Knows no model and no file.

A histogram spans 0 to a power of two and doubles its span when a value exceeds it, merging bins two by two. Bins of
the next span then contain whole bins of the last: what is counted depends neither on the order of the tensors nor on
how they were cut, and equals what one histogram of everything would say. Zeros are left out: they are exact at any
scale, and padding would outweigh everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sam3_runtime.plan.settings import Algorithm

_BITS = 12
BINS = 1 << _BITS
"""At least half of them are in use: the largest value lies in the upper half of the span."""
LEVELS = 128
"""Absolute values that signed 8 bits tell apart."""
_LEAST_EXPONENT = -64  # spans below 2**-64 are not told apart; scaling stays finite in float32
_LARGEST_EXPONENT = 128  # of finite float32
_STRIDE = 4  # bins from one candidate of the entropy search to the next: a thousandth of the range
_CANDIDATES_AT_ONCE = 64  # of every tensor: the search takes about 10 MB an array for 150 tensors


class Histogram:
    """Counts of the absolute values, other than zero, of every tensor that was added, all on one device.

    ``largest`` is the largest of them, as a tensor there; ``amax`` is its value, for which the host waits.
    """

    def __init__(self) -> None:
        self.largest = torch.zeros(())
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        """[BINS]"""
        self._exponent = torch.full((), _LEAST_EXPONENT, dtype=torch.int32)

    @property
    def amax(self) -> float:
        return float(self.largest)

    @property
    def limit(self) -> float:
        """The upper end of the last bin, a power of two."""
        return math.ldexp(1.0, int(self._exponent))

    def add(self, values: Tensor) -> None:
        """Count ``values``, of any shape and floating type.

        ``ValueError`` when one of them is not finite; on a GPU that shows in ``largest`` alone, as the host would have
        to wait for it.
        """
        if values.numel() == 0:
            return
        magnitudes = values.detach().abs().flatten().float()
        self._move(magnitudes.device)
        self.largest = torch.maximum(self.largest, magnitudes.max())  # NaN where any value is
        if not magnitudes.is_cuda and not math.isfinite(self.amax):
            raise ValueError("not finite")
        self._grow()
        # A product with a power of two is exact: a value's bin is the same in every span, but for merging.
        bins = magnitudes.mul_(_power_of_two(_BITS - self._exponent)).to(torch.int32)
        counts = _count(bins)
        counts[0] -= magnitudes.numel() - torch.count_nonzero(magnitudes)
        self.counts += counts

    def _move(self, device: torch.device) -> None:
        if self.counts.device != device:
            self.largest, self.counts = self.largest.to(device), self.counts.to(device)
            self._exponent = self._exponent.to(device)

    def _grow(self) -> None:
        """Let the span reach beyond the largest value so far, merging bins where it doubles."""
        reached = torch.frexp(self.largest).exponent.clamp(max=_LARGEST_EXPONENT)  # infinity has none of its own
        exponent = torch.where(self.largest > 0, reached, _LEAST_EXPONENT).clamp(min=_LEAST_EXPONENT).to(torch.int32)
        doubled = (exponent - self._exponent).clamp(0, _BITS)
        merged = torch.arange(BINS, device=self.counts.device) >> doubled
        self.counts = torch.zeros_like(self.counts).scatter_add_(0, merged, self.counts)
        self._exponent = exponent


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent in float32, exactly, on any device: an exponent of -126 to 127 stands in the number's own bits."""
    return ((exponent + 127) << 23).view(torch.float32)


def _count(bins: Tensor) -> Tensor:
    """How many of int32 ``bins`` are 0, 1, … BINS - 1: int64 [BINS]."""
    if bins.is_cuda:  # bincount asks for the largest first, and the host would wait; histc takes integers here alone
        return torch.histc(bins, BINS, 0, BINS).long()
    return torch.bincount(bins, minlength=BINS)


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
    best = torch.full((counts.shape[0],), math.inf, dtype=torch.float64, device=counts.device)
    edges = torch.zeros(counts.shape[0], dtype=torch.int64, device=counts.device)
    candidates = torch.arange(LEVELS, counts.shape[1] + 1, _STRIDE, device=counts.device)
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
        places = torch.arange(1, counts.shape[1] + 1, device=counts.device)
        used = torch.where(counts > 0, places, 0).amax(1, keepdim=True)
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
    bounds = kept.unsqueeze(1) * torch.arange(LEVELS + 1, device=kept.device) // LEVELS
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
