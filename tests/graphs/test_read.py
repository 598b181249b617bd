"""What is read from a graph's file, without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.graphs.read import read_graph

FACTS = {"checkpoint_digest": "c" * 64, "dims": json.dumps({"patch": 14}), "resolution": "182", "queries": "None"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A product with a weight behind a DequantizeLinear, and one of two activations inside of an island."""
    nodes = [
        helper.make_node("DequantizeLinear", ["a.weight", "scale"], ["wide"], name="a/DequantizeLinear"),
        helper.make_node("MatMul", ["x", "wide"], ["a"], name="a/MatMul"),
        helper.make_node("Shape", ["a"], ["shape"], name="Shape"),
        helper.make_node("MatMul", ["a", "a"], ["y"], name="MatMul"),
    ]
    weights = {"a.weight": np.ones((4, 4), np.int8), "scale": np.float32(1)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "sam3", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in (FACTS | {"islands": json.dumps({"Corners": ["Shape", "MatMul"]})}).items():
        model.metadata_props.add(key=key, value=value)
    path = tmp_path / "vision-encoder.onnx"
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=8)
    return path


def test_what_a_graph_says_about_itself(path: Path) -> None:
    graph = read_graph(path)
    assert graph.sha256 == sha256_of(path, path.with_name(f"{path.name}.data"))
    assert (graph.name, graph.opset, graph.precision, graph.quantize) == ("vision-encoder", 17, "fp32", None)
    assert graph.axes == {"resolution": 182}
    assert graph.products == {"a/MatMul": 16, "MatMul": 0}
    assert graph.islands == {"Corners": ("MatMul",)}, "what computes no floating-point value is left out"


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BuildError, match="damaged or was not written by this project"):
        read_graph(path)
