"""TensorRT's calibration cache: what stands in it, what it holds for, and whether a build may use it.

The cache itself is TensorRT's: a text file of scales by tensor. Beside it lies a JSON that says the rest. Knows neither
how a calibrator works nor how an engine is built.
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
from sam3_runtime.core.wording import counted
from sam3_runtime.engines.building import CalibrationCache
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.quantize.record import Measurement

_HEADER = re.compile(r"TRT-\d+-\w+")
_FEW = 8  # names that a log lists


class CalibratorRecord(Measurement):
    """What TensorRT's calibrator found: the scale of each tensor, which is its range over 127.

    ``failed`` are tensors whose line in the cache is no scale, with the likely reason, and ``missing`` the graph's
    floating-point tensors without a line: TensorRT computes with either in float, or gives them the scale of a
    neighbour that it fuses them with.
    """

    tensorrt: str = Field(description="the version that calibrated, and that may build with it")
    batch: int
    header: str = Field(description="the cache's own first line")
    cache_sha256: str
    scales: dict[str, float]
    failed: dict[str, str] = Field(default={}, description="tensor to reason; older reports have them among the scales")
    missing: tuple[str, ...]

    def depends_on(self) -> dict[str, Any]:
        return super().depends_on() | {"tensorrt": self.tensorrt, "batch": self.batch}

    def summary(self) -> str:
        """How many tensors got scales, and which did not, by the reason."""
        without: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.failed.items():
            without[reason].append(name)
        if self.missing:
            without["of the graph, and not in the cache: not measured"] = list(self.missing)
        lines = [f"  {len(names)} without one ({reason}): {_few(names)}" for reason, names in without.items()]
        return "\n".join([f"{counted(len(self.scales), 'tensor')} got a scale", *lines])


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def parse_cache(data: bytes) -> tuple[str, dict[str, float]]:
    """The header (``TRT-8601-EntropyCalibration2``) and what stands there as the scale of each tensor.

    A line is ``name: 3c010a14``, the bits of a float32; it need not be a scale (:func:`failures`).
    :class:`CalibrationError` for anything else.
    """
    header, *lines = data.decode("utf-8", errors="replace").splitlines() or [""]
    if not _HEADER.fullmatch(header.strip()):
        raise CalibrationError(f"a calibration cache begins with TRT-8601-… or the like, and this one with {header!r}")
    scales = {}
    for line in filter(str.strip, lines):
        name, _, bits = line.rpartition(": ")
        try:
            scales[name] = float(struct.unpack("!f", bytes.fromhex(bits.strip().zfill(8)))[0])
        except (ValueError, struct.error):
            raise CalibrationError(f"a calibration cache says `tensor: 3c010a14`, and this one {line!r}") from None
    return header.strip(), scales


def failures(values: Mapping[str, float], zeros: Collection[str]) -> dict[str, str]:
    """The tensors whose value in the cache is no scale, with the likely reason.

    A scale is a range over 127: finite and above 0. ``zeros`` are the tensors that TensorRT called uniformly zero.
    """
    found = {}
    for name, value in values.items():
        if isfinite(value) and value > 0:
            continue
        if name in zeros:
            found[name] = "nothing but zeros in these frames, as TensorRT said"
        elif value == 0:
            found[name] = "a range of 0: nothing but zeros in these frames"
        elif value == inf:
            found[name] = "infinite: no range was found, as for a tensor that is never computed or holds zeros alone"
        else:
            found[name] = "no number, or below 0: its values were not finite"
    return found


def open_cache(files: Sequence[str], graph: Path, tensorrt: str) -> CalibrationCache | None:
    """The cache and its JSON, ``files`` in that order, for a build of ``graph`` by that TensorRT; nothing for none.

    :class:`CalibrationError` where it was changed, or made for another graph or by another TensorRT.
    """
    if not files:
        return None
    cache, report = map(Path, files)
    record = CalibratorRecord.read(report)
    again = f"delete {cache} and run snakemake {cache}"
    if not cache.is_file():
        raise CalibrationError(f"{cache} is missing", again)
    if sha256_of(cache) != record.cache_sha256:
        raise CalibrationError(
            f"{cache} is not the cache that {report} is about: it was changed, or made from other frames", again
        )
    if record.key != record.expected_key():
        raise CalibrationError(f"{report} was edited: its content does not match its own key", again)
    if record.tensorrt != tensorrt:
        raise CalibrationError(f"{cache} was made by TensorRT {record.tensorrt}, and {tensorrt} builds here", again)
    digest = read_graph(graph).sha256
    if record.onnx_sha256 != digest:
        raise CalibrationError(
            f"{cache} was made for another graph ({record.onnx_sha256[:12]}) than {graph} ({digest[:12]})", again
        )
    return CalibrationCache(cache, record.algorithm, record.key, record.percentile)
