"""TensorRT's calibration cache: what stands in it, what it holds for, and whether a build may use it.

The cache itself is TensorRT's: a text file of scales by tensor. Beside it lies a JSON that says the rest. Knows neither
how a calibrator works nor how an engine is built.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from sam3_runtime.builders import CalibrationCache
from sam3_runtime.builders.graph import read_graph
from sam3_runtime.errors import CalibrationError
from sam3_runtime.files import sha256_of
from sam3_runtime.quantize.record import Measurement

_HEADER = re.compile(r"TRT-\d+-\w+")


class CalibratorRecord(Measurement):
    """What TensorRT's calibrator found: the scale of each tensor, which is its range over 127.

    ``missing`` are the graph's floating-point tensors without one: TensorRT computes with them in float, or gives them
    the scale of a neighbour that it fuses them with.
    """

    tensorrt: str = Field(description="the version that calibrated, and that may build with it")
    batch: int
    header: str = Field(description="the cache's own first line")
    cache_sha256: str
    scales: dict[str, float]
    missing: tuple[str, ...]

    def depends_on(self) -> dict[str, Any]:
        return super().depends_on() | {"tensorrt": self.tensorrt, "batch": self.batch}

    def summary(self) -> str:
        """How many tensors got scales, and which did not."""
        few = ", ".join(self.missing[:8]) + (f" and {len(self.missing) - 8} more" if len(self.missing) > 8 else "")
        without = f"; {len(self.missing)} of the graph's have none: {few}" if self.missing else ", and none is missing"
        return f"{len(self.scales)} tensors got a scale{without}"


def parse_cache(data: bytes) -> tuple[str, dict[str, float]]:
    """The header (``TRT-8601-EntropyCalibration2``) and the scale of each tensor.

    A line is ``name: 3c010a14``, the bits of a float32. :class:`CalibrationError` for anything else.
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
