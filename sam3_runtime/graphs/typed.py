"""Converts a float32 graph to float16, with an explicit type for every tensor, as strongly typed builders require.

Weights, tables and results become float16; nodes that are marked as islands stay in float32, with Casts at the borders.
Constants are rounded only once, as they were all computed in float32. Integers and booleans do not change. Independent
of what a node computes and why it is an island.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import shape_inference

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.base import Part
from sam3_runtime.graphs.islands import ISLAND

WIDE, NARROW = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST = float(np.finfo(np.float16).max)

_MOVES = frozenset(("Concat", "Expand", "Gather", "GatherND", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators without arithmetic: float32 values between islands pass them unchanged."""

_ALWAYS_WIDE = {("Resize", 2)}
"""Inputs that ONNX defines as float32 whatever the operator computes in: scales."""


def to_float16(model: ir.Model, spec: Part) -> dict[str, list[str]]:
    """Convert the graph of the part ``spec`` in place; return the names of the float32 nodes of each island.

    Raises :class:`ExportError` for a constant that float16 cannot represent, and for a value without a type.
    """
    graph = model.graph
    shape_inference.ShapeInferencePass()(model)  # tracing leaves some results untyped
    floats = {value for value in _values(graph) if value.dtype == WIDE}
    _extend_islands(graph, spec)
    _type_nodes(graph, floats)
    _type_interface(graph, spec, floats)
    _type_initializers(graph, floats, spec)
    _cast_at_borders(graph, floats)
    found: dict[str, list[str]] = {}
    for node in graph:
        if node.meta.get(ISLAND):
            found.setdefault(node.meta[ISLAND], []).append(str(node.name))
    return {name: found[name] for name in sorted(found)}


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        for value in node.outputs:
            if value.dtype is None:
                raise ExportError(f"{value.name} has no type after tracing", "report this as a defect of the export")
            yield value


def _extend_islands(graph: ir.Graph, spec: Part) -> None:
    """Add nodes without arithmetic to the island of their readers, if all of these are in one, or before an output.

    A node before a float32 output joins the island that its input comes from.
    """
    kept = {value for value, tensor in zip(graph.outputs, spec.outputs, strict=True) if tensor.dtype == "float32"}
    for node in reversed(list(graph)):
        if node.op_type not in _MOVES or node.meta.get(ISLAND):
            continue
        readers = [use.node.meta.get(ISLAND) for value in node.outputs for use in value.uses()]
        if readers and all(readers):
            node.meta[ISLAND] = readers[0]
        elif kept.issuperset(node.outputs):
            node.meta[ISLAND] = _island_before(node)


def _island_before(node: ir.Node) -> str | None:
    producers = [value.producer() for value in node.inputs if value is not None]
    return next(filter(None, (producer.meta.get(ISLAND) for producer in producers if producer)), None)


def _type_nodes(graph: ir.Graph, floats: set[ir.Value]) -> None:
    for node in graph:
        if node.meta.get(ISLAND):
            continue
        for value in node.outputs:
            if value in floats:
                value.dtype = NARROW
        if node.op_type == "Cast" and node.attributes["to"].as_int() == WIDE:
            node.attributes["to"] = ir.AttrInt64("to", NARROW)


def _type_interface(graph: ir.Graph, spec: Part, floats: set[ir.Value]) -> None:
    for value, tensor in zip(graph.inputs, spec.inputs, strict=True):
        if tensor.dtype == "float":
            value.dtype = NARROW
    for index, tensor in enumerate(spec.outputs):
        value = graph.outputs[index]
        wanted: ir.DataType | None = {"float": NARROW, "float32": WIDE}.get(tensor.dtype)
        if wanted is not None and value.dtype != wanted:
            cast = _cast(value, wanted, f"{tensor.name}/Cast")
            # The output of the Cast takes the name of the interface; the value before it gets another one.
            cast.name, value.name = tensor.name, f"{tensor.name}/before"
            graph.append(cast.producer())
            graph.outputs[index] = cast
            floats.add(cast)


def _type_initializers(graph: ir.Graph, floats: set[ir.Value], spec: Part) -> None:
    """Store constants in the type of their readers; one that both islands and other nodes read is stored twice."""
    for value in list(graph.initializers.values()):
        if value not in floats:
            continue
        uses = list(value.uses())
        others = [use for use in uses if _wanted(use.node, use.idx) == NARROW]
        if len(others) == len(uses):
            value.const_value, value.dtype = _narrowed(value, spec), NARROW
        elif others:
            narrow = ir.Value(name=f"{value.name}/float16", shape=value.shape, type=ir.TensorType(NARROW))
            narrow.const_value = _narrowed(value, spec)
            graph.register_initializer(narrow)
            for use in others:
                use.node.replace_input_with(use.idx, narrow)


def _wanted(node: ir.Node, index: int) -> ir.DataType:
    """Return the type in which a node reads its floating-point input ``index``."""
    return WIDE if node.meta.get(ISLAND) or (node.op_type, index) in _ALWAYS_WIDE else NARROW


def _narrowed(value: ir.Value, spec: Part) -> ir.TensorProtocol:
    tensor: Any = value.const_value
    largest = float(np.abs(tensor.numpy()).max(initial=0.0))
    if not largest <= LARGEST:
        message = f"{value.name} of the {spec.name} reaches {largest:.4g}, more than the {LARGEST:.0f} of float16"
        raise ExportError(message, f"set `precision: {{{spec.name}: fp32}}` in variants.yaml")

    def make() -> ir.TensorProtocol:  # called while writing: one weight at a time in memory
        return ir.Tensor(tensor.numpy().astype(np.float16), name=value.name)

    return ir.LazyTensor(make, dtype=NARROW, shape=tensor.shape, name=value.name)


def _cast_at_borders(graph: ir.Graph, floats: set[ir.Value]) -> None:
    made: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Cast":
            continue  # accepts any type
        for index, value in enumerate(node.inputs):
            wanted = _wanted(node, index)
            if value is None or value not in floats or value.dtype == wanted:
                continue
            if value not in made:
                made[value] = cast = _cast(value, wanted, f"{value.name}/{wanted.name.lower()}")
                producer, added = value.producer(), cast.producer()
                if producer is None:
                    graph.insert_before(graph[0], added)
                else:
                    graph.insert_after(producer, added)
            node.replace_input_with(index, made[value])


def _cast(value: ir.Value, wanted: ir.DataType, name: str) -> Any:
    node = ir.node("Cast", [value], {"to": wanted}, name=name)
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{name}:0", ir.TensorType(wanted), value.shape
    return result
