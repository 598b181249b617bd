"""Finds the ranges of activations that 8 bits should cover, from histograms of their absolute values.

Histograms are filled on the device of the tensors, without synchronisation on a GPU. The search for the ranges runs
over all histograms at once on that device, in float64, so that its result depends on the counts alone.

A histogram spans 0 to a power of two and doubles its span when a value exceeds it, merging bins in pairs. Bins of the
next span then contain whole bins of the last one: the counts depend neither on the order of the tensors nor on how they
were split, and equal those of one histogram of everything. Zeros are left out: they are exact at any scale, and padding
would outweigh everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sam3_runtime.plan.settings import Algorithm

_BITS = 12
BINS = 1 << _BITS
"""At least half of them are in use: the largest value is in the upper half of the span."""
LEVELS = 128
"""The number of absolute values in signed 8 bits."""
_LEAST_EXPONENT = -64  # of the smallest span; scaling stays finite in float32
_LARGEST_EXPONENT = 128  # of finite float32
_STRIDE = 4  # bins from one candidate of the entropy search to the next: a thousandth of the range
_CANDIDATES_AT_ONCE = 64  # of every tensor: the search takes about 10 MB an array for 150 tensors


class Histogram:
    """Counts of the absolute values, other than zero, of every tensor that was added, all on one device.

    ``largest`` is the largest of them, a tensor on that device. It is not finite once any value is not; the counts are
    meaningless then.
    """

    def __init__(self) -> None:
        self.largest = torch.zeros(())
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        """[BINS]"""
        self._exponent = torch.full((), _LEAST_EXPONENT, dtype=torch.int32)

    @property
    def amax(self) -> float:
        """The largest value; reading it synchronises with a GPU."""
        return float(self.largest)

    @property
    def limit(self) -> float:
        """The upper end of the last bin, a power of two."""
        return math.ldexp(1.0, int(self._exponent))

    def add(self, values: Tensor) -> None:
        """Count ``values``, of any shape and floating type."""
        if values.numel() == 0:
            return
        magnitudes = values.detach().abs().flatten().float()
        if self.counts.device != values.device:
            self.largest, self.counts = self.largest.to(values.device), self.counts.to(values.device)
            self._exponent = self._exponent.to(values.device)
        self.largest = torch.maximum(self.largest, magnitudes.max())  # NaN where any value is
        if not values.is_cuda and not math.isfinite(self.amax):
            return
        self._grow()
        # A product with a power of two is exact: a value has the same bin in every span, apart from merging.
        bins = magnitudes.mul_(_power_of_two(_BITS - self._exponent)).to(torch.int32)
        counts = _count(bins)
        counts[0] -= magnitudes.numel() - torch.count_nonzero(magnitudes)
        self.counts += counts

    def _grow(self) -> None:
        """Extend the span beyond the largest value so far, merging bins where it doubles."""
        reached = torch.frexp(self.largest).exponent.clamp(max=_LARGEST_EXPONENT)  # infinity has no exponent
        exponent = torch.where(self.largest > 0, reached, _LEAST_EXPONENT).clamp(min=_LEAST_EXPONENT).to(torch.int32)
        doubled = (exponent - self._exponent).clamp(0, _BITS)
        merged = torch.arange(BINS, device=self.counts.device) >> doubled
        self.counts = torch.zeros_like(self.counts).scatter_add_(0, merged, self.counts)
        self._exponent = exponent


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float32, exactly and on any device, by its bits; the exponent is -126 to 127."""
    return ((exponent + 127) << 23).view(torch.float32)


def _count(bins: Tensor) -> Tensor:
    """Count how many of int32 ``bins`` are 0, 1, … BINS - 1: int64 [BINS]."""
    if bins.is_cuda:  # bincount would synchronise to read the largest; histc takes integers on GPUs only
        return torch.histc(bins, BINS, 0, BINS).long()
    return torch.bincount(bins, minlength=BINS)


def find_ranges(histograms: Sequence[Histogram], algorithm: Algorithm, percentile: float | None = None) -> list[float]:
    """Return the largest absolute value that 8 bits should represent, for each tensor; 0 where all values were zero.

    ``entropy``: the range whose quantised distribution loses the least information (Kullback-Leibler divergence).
    ``percentile``: the range that contains that percentage of the values, which must be given. ``minmax``: the largest
    value.
    """
    largest = [histogram.amax for histogram in histograms]
    if algorithm == "minmax" or not histograms:
        return largest
    counts = torch.stack([histogram.counts for histogram in histograms]).double()
    if algorithm == "entropy":
        edges = entropy_edges(counts)
    elif percentile is None:
        raise ValueError("percentile is not given")
    else:
        edges = percentile_edges(counts, percentile)
    # The last bin in use extends beyond the largest value.
    limits = (histogram.limit / BINS for histogram in histograms)
    return [min(edge * limit, amax) for edge, limit, amax in zip(edges.tolist(), limits, largest, strict=True)]


def percentile_edges(counts: Tensor, percentile: float) -> Tensor:
    """Return the fractional number of bins [T] below which ``percentile`` % of the ``counts`` [T, bins] are."""
    cumulated = counts.cumsum(1)
    wanted = cumulated[:, -1:] * (percentile / 100)
    last = torch.searchsorted(cumulated, wanted).clamp_(max=counts.shape[1] - 1)
    inside = counts.gather(1, last)
    missing = cumulated.gather(1, last) - wanted
    return (last + 1 - missing / inside.clamp(min=1)).squeeze(1)


def entropy_edges(counts: Tensor) -> Tensor:
    """Return how many bins int64 [T] to keep of ``counts`` float64 [T, bins], so that the least information is lost.

    For each number of bins, the reference distribution is those bins with everything beyond added to the last one; the
    quantised one spreads each level's count evenly over those of its bins that are not empty. Both terms of the
    divergence are sums over ranges of bins, so cumulated sums give each candidate in ``LEVELS`` steps. The method is
    that of TensorRT's entropy calibrator.
    """
    sums = _Cumulated(counts)
    best = torch.full((counts.shape[0],), math.inf, dtype=torch.float64, device=counts.device)
    edges = torch.zeros(counts.shape[0], dtype=torch.int64, device=counts.device)
    candidates = torch.arange(LEVELS, counts.shape[1] + 1, _STRIDE, device=counts.device)
    for first in range(0, len(candidates), _CANDIDATES_AT_ONCE):
        kept = candidates[first : first + _CANDIDATES_AT_ONCE]
        divergence, index = _divergences(sums, kept).min(dim=1)
        better = divergence < best
        best = torch.where(better, divergence, best)
        edges = torch.where(better, kept[index], edges)
    return edges


class _Cumulated:
    """Sums over the first 0 … bins bins of histograms [T, bins], each [T, bins + 1]."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts
        self.total = counts.sum(1, keepdim=True)
        self.mass = _with_zero(counts.cumsum(1))
        self.filled = _with_zero((counts > 0).double().cumsum(1))
        self.self_information = _with_zero(torch.xlogy(counts, counts).cumsum(1))
        bins = torch.arange(1, counts.shape[1] + 1, device=counts.device)
        used = torch.where(counts > 0, bins, 0).amax(1, keepdim=True)
        self.used = used.clamp(min=LEVELS)


def _with_zero(sums: Tensor) -> Tensor:
    return torch.nn.functional.pad(sums, (1, 0))


def _divergences(sums: _Cumulated, kept: Tensor) -> Tensor:
    """Return the divergence [T, K] of keeping ``kept`` [K] bins each; infinite beyond the last bin in use."""
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
