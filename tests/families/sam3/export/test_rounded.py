"""Graphs of a few nodes, run with every result rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("transformers")

from sam3_runtime.families.sam3.export.layers import MASKED
from sam3_runtime.families.sam3.export.rounded import RoundedGraph

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


def save(path: Path, nodes: list[Any], constants: dict[str, Any], inputs: dict[str, int], output: int) -> Path:
    """Write a graph whose inputs and whose output ``y`` are vectors of these types; large weights are external data."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    values = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in inputs.items()]
    result = helper.make_tensor_value_info("y", output, ["n"])
    graph = helper.make_graph(nodes, "small", values, [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return path


def test_each_result_is_rounded_and_no_node_computes_in_float16(tmp_path: Path) -> None:
    """The product of two thirds is rounded, not the sum over 4096 of them, of which float16 would lose most."""
    third, count = np.float16(1 / 3), 4096
    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["product"], name="product"),
        helper.make_node("ReduceSum", ["product", "axes"], ["y"], name="sum"),
    ]
    constants = {"weight": np.full(count, third), "axes": np.array([0])}
    graph = RoundedGraph(save(tmp_path / "sum.onnx", nodes, constants, {"x": HALF}, HALF))
    found = graph({"x": torch.full((count,), float(third))})["y"]
    exact = np.float32(third) * np.float32(third)
    assert found.dtype == np.float16
    assert found == np.float16(np.float32(np.float16(exact)) * count)
    assert graph.largest == {"product": exact, "sum": np.float32(np.float16(exact)) * count}


def test_an_overflow_has_a_number_and_the_largest_of_all_runs_stays(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "x"], ["y"], name="square")]
    graph = RoundedGraph(save(tmp_path / "square.onnx", nodes, {}, {"x": HALF}, HALF))
    assert np.isinf(graph({"x": torch.tensor([1.0, -300.0])})["y"]).tolist() == [False, True]
    assert graph({"x": torch.tensor([2.0])})["y"].tolist() == [4.0]
    assert graph.largest == {"square": 90000.0}


def test_float32_results_stay_as_they_are(tmp_path: Path) -> None:
    """As in an island, which a Cast begins and another one ends."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], name="begin", to=FULL),
        helper.make_node("Add", ["wide", "small"], ["sum"], name="inside"),
        helper.make_node("Sub", ["sum", "wide"], ["rest"], name="inside_too"),
        helper.make_node("Cast", ["rest"], ["y"], name="end", to=HALF),
    ]
    graph = RoundedGraph(save(tmp_path / "island.onnx", nodes, {"small": np.float32(1e-3)}, {"x": HALF}, HALF))
    found = graph({"x": torch.tensor([1.0, 8.0])})["y"]
    np.testing.assert_allclose(found, 1e-3, rtol=1e-3)  # in float16, 8 + 0.001 is 8
    assert list(graph.largest) == ["end"]


def test_masked_scores_do_not_count_as_the_largest(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["mask", "masked"], ["bias"], name="bias"),
        helper.make_node("Add", ["x", "bias"], ["y"], name="scores"),
    ]
    constants = {"masked": np.float16(MASKED)}
    graph = RoundedGraph(save(tmp_path / "mask.onnx", nodes, constants, {"x": HALF, "mask": HALF}, HALF))
    found = graph({"x": torch.tensor([-7.0, 3.0]), "mask": torch.tensor([0.0, 1.0])})["y"]
    assert found.tolist() == [-7.0, np.float16(3 + MASKED)]
    assert graph.largest == {"bias": 0.0, "scores": 7.0}
