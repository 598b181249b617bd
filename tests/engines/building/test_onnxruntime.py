"""Engines of ONNX Runtime: the optimised graph in one file, weights included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx.checker")

import onnx
from onnx import TensorProto, helper, numpy_helper

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building.onnxruntime import build
from sam3_runtime.records.records import TensorRecord
from tests.engine_records import ort_task


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x @ 1 + 0 in two nodes, its weight in a file of its own."""
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "weight")
    bias = numpy_helper.from_array(np.zeros(64, np.float32), "bias")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("B", 64)) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["p"]), helper.make_node("Add", ["p", "bias"], ["y"])]
    made = helper.make_graph(nodes, "small", [x], [y], [weight, bias])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "small.onnx", save_as_external_data=True, location="small.onnx.data")
    return tmp_path / "small.onnx"


def test_the_engine_holds_its_weights(graph: Path, tmp_path: Path) -> None:
    engine = tmp_path / "elsewhere/small.engine"
    engine.parent.mkdir()
    built = build(ort_task(graph, engine, optimization="extended"))
    assert built.inputs == (TensorRecord(name="x", shape=("B", 64), dtype="float32"),)
    assert built.outputs == (TensorRecord(name="y", shape=("B", 64), dtype="float32"),)
    assert built.precision_got == {"float32": 1}
    assert "extended optimisation of small.onnx" in built.command
    assert built.weights == engine.stat().st_size > 64 * 64 * 4
    assert [path.name for path in engine.parent.iterdir()] == ["small.engine"]
    model = onnx.load(engine, load_external_data=False)
    assert [tensor.data_location for tensor in model.graph.initializer if tensor.name == "weight"] == [
        TensorProto.DEFAULT
    ]


def test_a_graph_that_is_refused_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(b"no graph")
    with pytest.raises(BuildError, match=r"ONNX Runtime refuses small\.onnx: .*\nHint: check the graph"):
        build(ort_task(tmp_path / "small.onnx", tmp_path / "small.engine", optimization="basic"))
