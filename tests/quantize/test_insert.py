from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.quantize.insert import _raise_opset, quantize_graph
from sam3_runtime.quantize.record import Calibration
from tests.quantize.conftest import Calibrate


def quantize(graph: Path, scales: Path, *exclude: str, name: str = "vision-encoder_int8.onnx") -> Any:
    output = graph.with_name(name)
    quantize_graph(graph, scales, output, exclude=exclude)
    return onnx.load(output, load_external_data=False)


def nodes_of(model: Any) -> dict[str, Any]:
    return {node.name: node for node in model.graph.node}


def values_of(model: Any) -> dict[str, Any]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL
    }


def run(path: Path, feed: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": feed}))


def test_every_layer_with_a_scale_gets_pairs_and_nothing_else(small_graph: Path, calibrate: Calibrate) -> None:
    model = quantize(small_graph, calibrate())
    counts = Counter(node.op_type for node in model.graph.node)
    # Inputs: images, tokens (a and b share it) and a; weights: stem, a, b and c.
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 3 + 4
    nodes = nodes_of(model)
    assert list(nodes["MatMul"].input) == ["a_t", "b"]
    assert list(nodes["up/ConvTranspose"].input) == ["map", "up.weight"]
    assert nodes["c/Gemm"].input[2] == "c.bias"


def test_consumers_of_one_tensor_with_one_scale_share_its_pair(small_graph: Path, calibrate: Calibrate) -> None:
    nodes = nodes_of(quantize(small_graph, calibrate(stem=1.0, a=4.0, b=4.0)))
    assert nodes["a/MatMul"].input[0] == nodes["b/MatMul"].input[0]


def test_consumers_with_different_scales_get_a_pair_each(small_graph: Path, calibrate: Calibrate) -> None:
    model = quantize(small_graph, calibrate(a=4.0, b=2.0))
    nodes, values = nodes_of(model), values_of(model)
    assert nodes["a/MatMul"].input[0] != nodes["b/MatMul"].input[0]
    assert values["tokens/scale"] == np.float32(4 / 127)
    assert values["tokens@b/scale"] == np.float32(2 / 127)


@pytest.mark.parametrize(
    ("layer", "axis", "others"), [("stem", 0, (1, 2, 3)), ("a", 1, (0,)), ("b", 1, (0,)), ("c", 0, (1,))]
)
def test_weights_have_a_scale_for_each_output_channel(
    small_graph: Path, calibrate: Calibrate, weights: dict[str, Any], layer: str, axis: int, others: tuple[int, ...]
) -> None:
    model = quantize(small_graph, calibrate())
    name = f"{layer}.weight"
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        attributes = {attribute.name: attribute.i for attribute in nodes_of(model)[f"{name}/{operator}"].attribute}
        assert attributes == {"axis": axis}
    scale = values_of(model)[f"{name}/scale"]
    largest = np.abs(weights[name]).max(axis=others)
    expected = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    np.testing.assert_array_equal(scale, expected)
    zero_point = values_of(model)[f"{name}/zero_point"]
    assert zero_point.dtype == np.int8
    assert not zero_point.any()


def test_the_result_computes_nearly_the_same(small_graph: Path, calibrate: Calibrate) -> None:
    feed = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
    quantize(small_graph, calibrate(stem=1.0, a=12.0, b=12.0, c=40.0))
    exact, rounded = run(small_graph, feed), run(small_graph.with_name("vision-encoder_int8.onnx"), feed)
    assert len(exact) == 3
    for one, other in zip(exact, rounded, strict=True):
        assert np.abs(one - other).max() < 0.05 * np.abs(one).max()
    assert np.abs(exact[0] - rounded[0]).max() > 0


def test_patterns_keep_layers_in_float(small_graph: Path, calibrate: Calibrate, capsys: Any) -> None:
    model = quantize(small_graph, calibrate(), "st*", "c")
    nodes = nodes_of(model)
    assert list(nodes["stem/Conv"].input) == ["images", "stem.weight"]
    assert nodes["c/Gemm"].input[0] == "a"
    assert "stem.weight/scale" not in values_of(model)
    report = capsys.readouterr().out
    assert "2 of 6 products" in report
    assert "2 stay in float, excluded: stem/Conv, c/Gemm" in report


def test_a_pattern_that_matches_nothing_names_near_layers(small_graph: Path, calibrate: Calibrate) -> None:
    with pytest.raises(CalibrationError, match=r"'sten' matches no layer[\s\S]*similar names are stem"):
        quantize(small_graph, calibrate(), "sten")


def test_excluding_everything_is_refused(small_graph: Path, calibrate: Calibrate) -> None:
    with pytest.raises(CalibrationError, match="no layer is left"):
        quantize(small_graph, calibrate(), "*")
    assert not small_graph.with_name("vision-encoder_int8.onnx").exists()


def test_the_report_says_which_layers_have_no_scale(small_graph: Path, calibrate: Calibrate, capsys: Any) -> None:
    quantize(small_graph, calibrate(a=1.0))
    report = capsys.readouterr().out
    assert "1 of 6 products and convolutions got scales" in report
    assert "3 stay in float, no scale was measured: stem/Conv, b/MatMul, c/Gemm" in report
    assert "1 stay in float, product of two activations: MatMul" in report
    assert "1 stay in float, transposed convolution: up/ConvTranspose" in report


def test_weights_stay_where_they_are(small_graph: Path, calibrate: Calibrate) -> None:
    before = small_graph.with_name("vision-encoder.onnx.data").read_bytes()
    model = quantize(small_graph, calibrate())
    assert small_graph.with_name("vision-encoder.onnx.data").read_bytes() == before
    original = {tensor.name: tensor for tensor in onnx.load(small_graph, load_external_data=False).graph.initializer}
    kept = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in original}
    assert kept == original


def test_metadata_says_what_it_is(small_graph: Path, calibrate: Calibrate) -> None:
    scales = calibrate()
    quantize(small_graph, scales)
    facts = read_graph(small_graph.with_name("vision-encoder_int8.onnx"))
    assert facts.quantize == "int8"
    assert facts.calibration_key == Calibration.read(scales).key
    assert (facts.axes, facts.checkpoint_digest) == ({"resolution": 8}, "c" * 64)


def test_twice_gives_the_same_bytes(small_graph: Path, calibrate: Calibrate) -> None:
    scales = calibrate()
    for name in ("one.onnx", "two.onnx"):
        quantize(small_graph, scales, name=name)
    assert small_graph.with_name("one.onnx").read_bytes() == small_graph.with_name("two.onnx").read_bytes()


def test_the_output_must_lie_beside_the_weights(small_graph: Path, calibrate: Calibrate, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="must be beside"):
        quantize_graph(small_graph, calibrate(), tmp_path / "elsewhere" / "x.onnx", exclude=[])


def test_a_graph_in_float64_is_refused(small_graph: Path, calibrate: Calibrate) -> None:
    model = onnx.load(small_graph)
    for tensor in model.graph.initializer:
        if tensor.name == "a.weight":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    onnx.save(model, small_graph)
    with pytest.raises(CalibrationError, match="the weight of a is double"):
        quantize(small_graph, calibrate())


def test_nothing_half_written_stays_behind(small_graph: Path, calibrate: Calibrate, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    scales = calibrate()
    before = set(small_graph.parent.iterdir())
    with pytest.raises(onnx.checker.ValidationError):
        quantize(small_graph, scales)
    assert set(small_graph.parent.iterdir()) == before


@pytest.mark.parametrize("axes", [[-1, -2], None])
def test_a_reduction_keeps_its_axes_when_the_opset_is_raised(axes: list[int] | None) -> None:
    """They are an attribute in 17 and an input in 19."""
    given = {} if axes is None else {"axes": axes}
    node = helper.make_node("ReduceMean", ["x"], ["y"], name="pool", keepdims=0, **given)
    pixels_in = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 5])
    graph = helper.make_graph(
        [node], "reduces", [pixels_in], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pixels = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    before = ort.InferenceSession(model.SerializeToString()).run(None, {"x": pixels})[0]
    _raise_opset(model)
    assert model.opset_import[0].version == 19
    after = ort.InferenceSession(model.SerializeToString()).run(None, {"x": pixels})[0]
    assert np.array_equal(before, after)
    assert before.shape == ((2, 3) if axes else ())
