"""Float16 with float32 islands: a type for every tensor, Casts at the borders, and nothing that float16 cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.base import Part, Tensor
from sam3_runtime.graphs.islands import ISLAND
from sam3_runtime.graphs.typed import to_float16

PART = Part(
    "model", inputs=(Tensor("x", ("B", 4)),), outputs=(Tensor("y", ("B", 4)), Tensor("z", ("B", 4), "float32")),
    dynamic=("B",), depends_on=(), external_data=False, code=(),
)  # fmt: skip


def small(scale: float = 2.0) -> ir.Model:
    """y = exp(x * scale), z = y * scale; the exponential is an island, and both products read the same weight."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["B", 4]))
    weight = ir.Value(name="scale", const_value=ir.tensor(np.full(4, scale, np.float32), name="scale"))
    weight.type, weight.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([4])
    first = ir.node("Mul", [x, weight], name="first")
    power = ir.node("Exp", first.outputs, name="power")
    last = ir.node("Mul", [power.outputs[0], weight], name="last")
    power.meta[ISLAND] = "Powers"
    for node, name in ((first, "p"), (power, "y"), (last, "z")):
        node.outputs[0].name = name
    graph = ir.Graph(
        [x], [power.outputs[0], last.outputs[0]], nodes=[first, power, last], initializers=[weight],
        opset_imports={"": 17}, name="small",
    )  # fmt: skip
    return ir.Model(graph, ir_version=8)


def test_islands_compute_in_float32_and_all_else_in_float16() -> None:
    model = small()
    assert to_float16(model, PART) == {"Powers": ["power"]}
    types = {node.name: [value.dtype for value in (*node.inputs, *node.outputs)] for node in model.graph}
    narrow, wide = ir.DataType.FLOAT16, ir.DataType.FLOAT
    assert types["first"] == types["last"] == [narrow] * 3
    assert types["power"] == [wide, wide]
    assert [node.op_type for node in model.graph].count("Cast") == 4


def test_a_constant_of_both_kinds_of_reader_is_stored_twice() -> None:
    model = small()
    model.graph[0].meta[ISLAND] = "Scales"
    assert to_float16(model, PART) == {"Powers": ["power"], "Scales": ["first"]}
    stored = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert stored == {"scale": ir.DataType.FLOAT, "scale/float16": ir.DataType.FLOAT16}


def test_inputs_and_outputs_have_the_contracts_names_and_types(tmp_path: Path) -> None:
    model = small()
    to_float16(model, PART)
    ir.save(model, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.type) for one in session.get_outputs()] == [("y", "tensor(float16)"), ("z", "tensor(float)")]
    y, z = session.run(None, {"x": np.array([[0, 0.5, 1, -1]], np.float16)})
    np.testing.assert_allclose(y[0], np.exp([0, 1, 2, -2]), rtol=1e-3)
    np.testing.assert_allclose(z, 2 * y.astype(np.float32), rtol=1e-3)


@pytest.mark.parametrize("scale", [1e5, -1e5, float("nan")])
def test_a_constant_that_float16_cannot_hold_is_refused(scale: float) -> None:
    with pytest.raises(ExportError, match=r"scale of the model reaches .*\nHint: set `precision: \{model: fp32\}`"):
        to_float16(small(scale), PART)
