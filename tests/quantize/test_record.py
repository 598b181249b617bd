"""Records of scales are of one graph, and say which layers have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import CalibrationError, RecordError
from sam3_runtime.quantize.record import Calibration
from tests.quantize.conftest import Calibrate
from tests.quantize.test_insert import quantize


def test_scales_of_another_graph_are_refused(small_graph: Path, calibrate: Calibrate) -> None:
    scales = calibrate()
    data = small_graph.with_name("vision-encoder.onnx.data")
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    with pytest.raises(CalibrationError, match="measured on another graph"):
        quantize(small_graph, scales)


def test_an_edited_key_is_noticed(small_graph: Path, calibrate: Calibrate) -> None:
    scales = calibrate()
    Calibration.read(scales).model_copy(update={"algorithm": "entropy"}).write(scales)
    with pytest.raises(CalibrationError, match="was edited"):
        quantize(small_graph, scales)


def test_a_damaged_record_is_named(small_graph: Path, calibrate: Calibrate) -> None:
    scales = calibrate()
    scales.write_text(scales.read_text().replace("4.0", "-4.0", 1))
    with pytest.raises(RecordError, match=r"amax\.a"):
        quantize(small_graph, scales)
