"""Reads TensorRT's calibration cache, and checks with its JSON record whether a build may use it.

The cache is TensorRT's own format, a text file of scales by tensor; the record beside it contains everything else.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

from pydantic import Field

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.wording import counted, few
from sam3_runtime.engines.building import CalibrationCache
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.quantize.record import Measurement

_HEADER = re.compile(r"TRT-\d+-\w+")


class CalibratorRecord(Measurement):
    """The result of TensorRT's calibrator: the scale of each tensor, which is its range over 127.

    ``failed`` are tensors whose line in the cache is not a scale, with the likely reason, and ``missing`` the graph's
    floating-point tensors without a line: TensorRT computes with either in float, or gives them the scale of a
    neighbour that it fuses them with.
    """

    tensorrt: str = Field(description="version that calibrated, the only one that may build with it")
    batch: int
    header: str = Field(description="first line of the cache")
    cache_sha256: str
    scales: dict[str, float]
    failed: dict[str, str] = Field(default={}, description="tensor to reason; older records have them in scales")
    missing: tuple[str, ...]

    def depends_on(self) -> dict[str, Any]:
        """Return what the key is a digest of."""
        return super().depends_on() | {"tensorrt": self.tensorrt, "batch": self.batch}

    def summary(self) -> str:
        """Return lines for a log: how many tensors have scales, and those without one, by reason."""
        without: dict[str, list[str]] = defaultdict(list)
        for name, reason in (self.failed | dict.fromkeys(self.missing, "not in the cache: not measured")).items():
            without[reason].append(name)
        lines = [f"  {len(names)} without one ({reason}): {few(names)}" for reason, names in without.items()]
        return "\n".join([f"{counted(len(self.scales), 'tensor')} got a scale", *lines])


def parse_cache(data: bytes) -> tuple[str, dict[str, float]]:
    """Return the header (``TRT-8601-EntropyCalibration2``) and the value of each tensor.

    A line is ``name: 3c010a14``, the bits of a float32, which may not be a scale (:func:`failures`). Raises
    :class:`CalibrationError` for any other file.
    """
    header, *lines = data.decode("utf-8", errors="replace").splitlines() or [""]
    if not _HEADER.fullmatch(header.strip()):
        raise CalibrationError(f"a calibration cache begins with TRT-8601-… or similar, not with {header!r}")
    scales = {}
    for line in filter(str.strip, lines):
        name, _, bits = line.rpartition(": ")
        try:
            scales[name] = float(struct.unpack("!f", bytes.fromhex(bits.strip().zfill(8)))[0])
        except (ValueError, struct.error):
            raise CalibrationError(f"a line of a calibration cache is `tensor: 3c010a14`, not {line!r}") from None
    return header.strip(), scales


def failures(values: Mapping[str, float], zeros: Collection[str]) -> dict[str, str]:
    """Return the tensors whose value in the cache is not a scale, with the likely reason.

    A scale is a range over 127: finite and above 0. ``zeros`` are the tensors that TensorRT reported as uniformly zero.
    """
    found = {}
    for name, value in values.items():
        if isfinite(value) and value > 0:
            continue
        if name in zeros:
            found[name] = "only zeros in these frames, as TensorRT reported"
        elif value == 0:
            found[name] = "a range of 0: only zeros in these frames"
        elif value == inf:
            found[name] = "infinite: no range was found, as for a tensor that is never computed or contains only zeros"
        else:
            found[name] = "NaN or below 0: its values were not finite"
    return found


def open_cache(files: Sequence[str], graph: Path, tensorrt: str) -> CalibrationCache | None:
    """Open the cache and its record, ``files`` in that order, for a build of ``graph``; None where there are no files.

    ``tensorrt`` is the version that builds. Raises :class:`CalibrationError` where the cache is missing or was changed,
    or was made for another graph or by another TensorRT.
    """
    if not files:
        return None
    cache, report = map(Path, files)
    record = CalibratorRecord.read(report)
    record.check(report, graph, read_graph(graph).sha256)
    if not cache.is_file():
        problem = f"{cache} is missing"
    elif sha256_of(cache) != record.cache_sha256:
        problem = f"{cache} is not the cache that {report} describes: it was changed, or made from other frames"
    elif record.tensorrt != tensorrt:
        problem = f"{cache} was made by TensorRT {record.tensorrt}, but {tensorrt} builds here"
    else:
        return CalibrationCache(cache, record.algorithm, record.key, record.percentile)
    raise CalibrationError(problem, f"delete {cache} and run snakemake {cache}")
