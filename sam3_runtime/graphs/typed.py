"""Turns a float32 graph into a float16 one: every tensor has its type written down, as strongly typed builders want it.

Weights, tables and results become float16; nodes that are marked as islands keep float32, with a Cast at each border.
Constants were all computed in float32 before they come here, so that only their last digit is rounded. Integers and
booleans are not touched. Nothing here knows what a node computes, or why it is an island.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import shape_inference

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.base import Part
from sam3_runtime.graphs.islands import ISLAND

WIDE, NARROW = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST = float(np.finfo(np.float16).max)

_MOVES = frozenset(("Concat", "Expand", "Gather", "GatherND", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that compute nothing: between islands, float32 values pass them as they are."""

_ALWAYS_WIDE = {("Resize", 2)}
"""Inputs that ONNX has in float32 whatever the operator computes in: scales."""


def to_float16(model: ir.Model, spec: Part) -> dict[str, list[str]]:
    """Type the graph, in place. Returns the names of the float32 nodes of each island."""
    graph = model.graph
    shape_inference.ShapeInferencePass()(model)  # tracing leaves the inside of some operators untyped
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
                raise ExportError(f"the type of {value.name} is not known after tracing", "report this as a defect")
            yield value


def _extend_islands(graph: ir.Graph, spec: Part) -> None:
    """Nodes that only move values join the island that all of their readers belong to, and so do those before a
    float32 output."""
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
    return next((producer.meta[ISLAND] for producer in producers if producer and producer.meta.get(ISLAND)), None)


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
    for place, tensor in enumerate(spec.outputs):
        value = graph.outputs[place]
        wanted: ir.DataType | None = {"float": NARROW, "float32": WIDE}.get(tensor.dtype)
        if wanted is not None and value.dtype != wanted:
            cast = _cast(value, wanted, f"{tensor.name}/Cast")
            # The output keeps the contract's name; what was called so becomes a result inside of the graph.
            cast.name, value.name = tensor.name, f"{tensor.name}/before"
            graph.append(cast.producer())  # type: ignore[arg-type]
            graph.outputs[place] = cast
            floats.add(cast)


def _type_initializers(graph: ir.Graph, floats: set[ir.Value], spec: Part) -> None:
    """Store constants as their readers take them; one that islands and others read is stored twice."""
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


def _wanted(node: ir.Node, place: int) -> ir.DataType:
    """The type in which a node reads a floating-point input."""
    return WIDE if node.meta.get(ISLAND) or (node.op_type, place) in _ALWAYS_WIDE else NARROW


def _narrowed(value: ir.Value, spec: Part) -> ir.TensorProtocol:
    tensor = value.const_value
    if tensor is None:
        raise ExportError(f"the constant {value.name} has no value", "report this as a defect")

    largest = float(np.abs(tensor.numpy()).max(initial=0.0))
    if not largest <= LARGEST:
        message = f"{value.name} of the {spec.name} reaches {largest:.4g}, and float16 ends at {LARGEST:.0f}"
        raise ExportError(message, f"set `precision: {{{spec.name}: fp32}}` in variants.yaml")

    def make() -> ir.TensorProtocol:  # when it is written: one weight at a time in memory
        return ir.Tensor(tensor.numpy().astype(np.float16), name=value.name)

    return ir.LazyTensor(make, dtype=NARROW, shape=tensor.shape, name=value.name)  # type: ignore[arg-type]


def _cast_at_borders(graph: ir.Graph, floats: set[ir.Value]) -> None:
    made: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Cast":
            continue  # takes any type
        for place, value in enumerate(node.inputs):
            wanted = _wanted(node, place)
            if value is None or value not in floats or value.dtype == wanted:
                continue
            if value not in made:
                made[value] = _cast(value, wanted, f"{value.name}/{wanted.name.lower()}")
                _insert_after(graph, value, made[value])
            node.replace_input_with(place, made[value])


def _insert_after(graph: ir.Graph, value: ir.Value, cast: ir.Value) -> None:
    node, producer = cast.producer(), value.producer()
    if node is None:
        return
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)


def _cast(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Value:
    node = ir.node("Cast", [value], {"to": wanted}, name=name)
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{name}:0", ir.TensorType(wanted), value.shape
    return result
