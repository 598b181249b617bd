"""Fixtures for quantisation: a graph of a few layers, and the demo checkpoint's vision encoder with its scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sam3_runtime.graphs.read import read_graph  # noqa: E402
from sam3_runtime.quantize.record import Calibration  # noqa: E402
from sam3_runtime.records.records import Preprocessing  # noqa: E402


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    drawn = np.random.default_rng(0)
    shapes = {
        "stem.weight": (4, 3, 2, 2),
        "a.weight": (4, 6),
        "b.weight": (4, 5),
        "c.weight": (7, 6),
        "up.weight": (4, 2, 2, 2),
    }
    weights = {name: drawn.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["a.weight"][:, 3] = 0  # an output channel of zeros
    return weights


def _model() -> Any:
    """stem (Conv) → tokens → a and b (MatMul, the same input), a → c (Gemm, transB), and a transposed convolution."""
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight"], ["map"], name="stem/Conv", strides=[2, 2]),
        helper.make_node("Transpose", ["map"], ["last"], name="Transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "shape"], ["tokens"], name="Reshape"),
        helper.make_node("MatMul", ["tokens", "a.weight"], ["a"], name="a/MatMul"),
        helper.make_node("MatMul", ["tokens", "b.weight"], ["b"], name="b/MatMul"),
        helper.make_node("Gemm", ["a", "c.weight", "c.bias"], ["c"], name="c/Gemm", transB=1),
        helper.make_node("Transpose", ["a"], ["a_t"], name="Transpose_2", perm=[1, 0]),
        helper.make_node("MatMul", ["a_t", "b"], ["ab"], name="MatMul"),
        helper.make_node("ConvTranspose", ["map", "up.weight"], ["up"], name="up/ConvTranspose", strides=[2, 2]),
    ]
    extra = {"shape": np.array([-1, 4]), "c.bias": np.ones(7, np.float32)}
    tensors = [numpy_helper.from_array(value, name) for name, value in (_weights() | extra).items()]
    value = helper.make_tensor_value_info
    outputs = [
        value("c", TensorProto.FLOAT, [None, 7]),
        value("ab", TensorProto.FLOAT, [6, 5]),
        value("up", TensorProto.FLOAT, [1, 2, 8, 8]),
    ]
    graph = helper.make_graph(nodes, "sam3", [value("images", TensorProto.FLOAT, [1, 3, 8, 8])], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, text in {"checkpoint_digest": "c" * 64, "dims": json.dumps({"patch": 14}), "resolution": "8"}.items():
        model.metadata_props.add(key=key, value=text)
    return model


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray[Any, Any]]:
    return _weights()


@pytest.fixture
def small_graph(tmp_path: Path) -> Path:
    """A graph with the layers stem, a, b, c, up, whose weights lie in external data."""
    path = tmp_path / "vision-encoder.onnx"
    onnx.save(_model(), path, save_as_external_data=True, location=path.name + ".data", size_threshold=90)
    return path


Calibrate = Callable[..., Path]


@pytest.fixture
def calibrate(small_graph: Path) -> Calibrate:
    """Write scales for the small graph: ``calibrate(stem=3.0, ...)``."""

    def write(**amax: float) -> Path:
        ranges = amax or {"stem": 1.0, "a": 4.0, "b": 4.0, "c": 9.0}
        path = small_graph.with_name("scales.json")
        calibration_of(read_graph(small_graph).sha256, ranges).write(path)
        return path

    return write


def calibration_of(onnx_sha256: str, amax: dict[str, float]) -> Calibration:
    return Calibration(
        key="",
        onnx_sha256=onnx_sha256,
        checkpoint_digest="c" * 64,
        preprocessing=Preprocessing(),
        frames=1,
        frames_asked=1,
        frames_sha256="f" * 64,
        algorithm="minmax",
        amax=amax,
        without={"up": "ConvTranspose2d stays in float"},
        seconds=1.0,
    ).sealed()
