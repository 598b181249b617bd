"""Runs an exported graph in ONNX Runtime on the CPU, and rounds each result to the type that the graph declares.

This models a GPU: a node computes and accumulates in float32, as tensor cores and NVIDIA's normalisations do, and its
result has float16's 11 bits. Without the added nodes ONNX Runtime does not show this, as its CPU keeps float32 between
the nodes of a float16 graph. The largest value of every result is recorded before it is rounded, so that an overflow
has a number. For measurements: nothing is fused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from torch import Tensor

from sam3_runtime.families.sam3.export.layers import MASKED


class RoundedGraph:
    """The graph at ``path``; its 8-bit and float32 results stay as they are.

    ``largest`` maps each node with a float16 result to the largest magnitude of its results in all runs. Scores under
    the additive mask do not count: they are large on purpose, and finite (-20000 at the least).
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        self.outputs = [value.name for value in model.graph.output]
        self.largest: dict[str, float] = {}
        self._nodes = _round_results(model)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # In the order of the nodes; the default order computes the largest values last, and keeps all results for them.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        self._session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self._narrow = {value.name for value in self._session.get_inputs() if value.type == "tensor(float16)"}

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name, in the graph's types; ``feeds`` are rounded to the types of the inputs."""
        typed = {name: value.half() if name in self._narrow else value for name, value in feeds.items()}
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in typed.items()}
        values = self._session.run([*self.outputs, *self._nodes], arrays)
        for node, value in zip(self._nodes.values(), values[len(self.outputs) :], strict=True):
            self.largest[node] = max(self.largest.get(node, 0.0), float(value))
        return dict(zip(self.outputs, values[: len(self.outputs)], strict=True))


def _round_results(model: Any) -> dict[str, str]:
    """Let every node read and write float32, and cast each float16 result to float16 and back, in place.

    Float16 values keep their names and types. Returns the outputs that are added, each the largest magnitude of a
    float16 result before it is rounded, and the name of the result's node.
    """
    graph, masked = model.graph, _masked_results(model.graph)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *graph.input, *graph.output]
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in values}
    narrow = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    given = [value.name for value in (*graph.initializer, *graph.input) if value.name in narrow]
    nodes = [helper.make_node("Cast", [name], [f"{name}/float32"], to=TensorProto.FLOAT) for name in given]
    largest: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [f"{name}/float32" if name in narrow else name for name in node.input]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in narrow:
                node.output[index] = f"{name}/exact"
                nodes += _rounding(name, is_masked=name in masked)
                largest[f"{name}/largest"] = node.name
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in largest)
    return largest


def _rounding(name: str, *, is_masked: bool) -> Iterator[Any]:
    exact, counted = f"{name}/exact", f"{name}/counted"
    yield helper.make_node("Cast", [exact], [name], to=TensorProto.FLOAT16)
    yield helper.make_node("Cast", [name], [f"{name}/float32"], to=TensorProto.FLOAT)
    if is_masked:
        yield helper.make_node("ThresholdedRelu", [exact], [counted], alpha=MASKED / 2)  # 0 instead of masked scores
    yield helper.make_node("Abs", [counted if is_masked else exact], [f"{name}/magnitude"])
    yield helper.make_node("ReduceMax", [f"{name}/magnitude"], [f"{name}/largest"], keepdims=0)


def _masked_results(graph: Any) -> set[str]:
    """Find the results that contain the additive mask: from its product to the Softmax that reads it."""
    inline = (tensor for tensor in graph.initializer if not uses_external_data(tensor))
    found = {tensor.name for tensor in inline if (numpy_helper.to_array(tensor) == MASKED).any()}
    for node in graph.node:
        if node.op_type in ("Mul", "Add", "Unsqueeze") and found.intersection(node.input):
            found.update(node.output)
    return found
