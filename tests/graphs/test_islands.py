"""Nodes know the island that they are in by the classes of the modules that they were traced in."""

from __future__ import annotations

import onnx_ir as ir

from sam3_runtime.graphs.islands import ISLAND, mark_islands

CLASSES = "pkg.torch.onnx.class_hierarchy"


def traced(*classes: list[str] | None) -> ir.Model:
    """A node for each, as PyTorch marks it: the classes around it, and at the end its operator."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    nodes = [ir.node("Relu", [value]) for _ in classes]
    for node, named in zip(nodes, classes, strict=True):
        if named is not None:
            node.metadata_props[CLASSES] = str(named)
    graph = ir.Graph([value], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


def test_a_node_is_in_the_island_whose_module_it_is_in() -> None:
    model = traced(
        ["models.Decoder", "models.BoxSides", "aten.relu"], ["models.Decoder", "aten.relu"],
        ["models.BoxSides", "models.Inner", "aten.relu"], None,
    )  # fmt: skip
    mark_islands(model, ["BoxSides", "Other"])
    assert [node.meta[ISLAND] for node in model.graph] == ["BoxSides", None, "BoxSides", None]


def test_an_operator_of_that_name_is_no_module() -> None:
    model = traced(["models.Decoder", "BoxSides"])
    mark_islands(model, ["BoxSides"])
    assert [node.meta[ISLAND] for node in model.graph] == [None]
