"""Turns a traced graph into the one that is shipped, and checks the written file.

Weights keep the names of their modules and are stored in the layout that their MatMul reads; nodes are named
``<module>/<operator>``; constants are folded and duplicates removed; traces of the machine (stack traces, paths) are
deleted. The opset is 17. Independent of what the graph computes.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import collapse_slice_rule

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.base import Part, resolve
from sam3_runtime.graphs.read import AXES_WERE_AN_ATTRIBUTE

OPSET = 17
TRACED_OPSET = 18
IR_VERSION = 8
"""The version of the file format that came with opset 17; TensorRT 8.6 reads it."""

FOLDED_ELEMENTS = 1 << 18
"""Expressions of larger constants are not folded: that would only enlarge the file."""

_FORBIDDEN = (
    "If Loop Scan Scatter ScatterND ScatterElements IsNaN IsInf RoiAlign NonZero Where Einsum GridSample "
    "Cos Dropout RandomNormal RandomNormalLike SequenceEmpty Trilu Tile OneHot"
)
FORBIDDEN = frozenset(_FORBIDDEN.split())
"""Control flow and look-ups that TensorRT runs badly or not at all; masks that prevent the fusion of an attention by
standing between its two products; and operators that should have been folded into constants."""
# Changed between opset 17 and 18, but only by inputs or attributes that the checker refuses at 17.
_SAME_WITHOUT_NEW_ATTRIBUTES = frozenset({"Pad", "Resize", "Split"})
_NEW_ATTRIBUTES = {"Resize": ("antialias", "keep_aspect_ratio_policy"), "Split": ("num_outputs",)}
_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(model: ir.Model, name: str) -> None:
    """Bring a graph from ``torch.onnx.export(optimize=False)`` into the shipped form, in place, and name it."""
    _store_transposed_weights(model.graph)
    optimizer.fold_constants(model, input_size_limit=FOLDED_ELEMENTS, output_size_limit=FOLDED_ELEMENTS)
    RewriteRuleSet([collapse_slice_rule]).apply_to_model(model)  # those of PyTorch's `[:]`
    _fix_reshapes(model.graph)
    for clean in (
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        clean(model)
    _name_nodes(model.graph)
    _guard_outputs(model.graph)
    _forget_origin(model, name)
    _relabel(model)


def set_interface(model: ir.Model, spec: Part, fixed: dict[str, int]) -> None:
    """Give the inputs and outputs the names and dimensions of ``spec``; ``fixed`` are the values of fixed symbols.

    Raises :class:`ExportError` where the traced graph has other ones.
    """
    for values, tensors in ((model.graph.inputs, spec.inputs), (model.graph.outputs, spec.outputs)):
        if len(values) != len(tensors):
            raise ExportError(f"{spec.name} was traced with {len(values)} tensors instead of {len(tensors)}")
        for value, tensor in zip(values, tensors, strict=True):
            wanted = resolve(tensor.shape, fixed)
            traced = tuple(value.shape or ())
            if any(isinstance(t, int) and t != w for t, w in zip(traced, wanted, strict=True)):
                raise ExportError(f"{spec.name}: {tensor.name} was traced as {traced} instead of {wanted}")
            value.name = tensor.name
            value.shape = ir.Shape(wanted)


def check_file(path: Path, part: str) -> None:
    """Raise :class:`ExportError` where a written graph is not valid ONNX or contains forbidden operators."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{part} is not valid ONNX: {error}", "report this as a defect of the export") from error
    proto = onnx.load(str(path), load_external_data=False)
    found = Counter(node.op_type for node in proto.graph.node if node.op_type in FORBIDDEN)
    found.update(f"{node.domain}::{node.op_type}" for node in proto.graph.node if node.domain)
    if found:
        listing = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
        hint = "the versions of torch or transformers may be newer than this project supports; see docs/parity.md"
        raise ExportError(f"{part} contains {listing}", hint)


def point_to_data(path: Path, name: str) -> None:
    """Make the graph at ``path`` look for its weights in the file ``name`` beside it."""
    proto = onnx.load(str(path), load_external_data=False)
    for value in proto.graph.initializer:
        for entry in value.external_data:
            if entry.key == "location":
                entry.value = name
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _store_transposed_weights(graph: ir.Graph) -> None:
    """Replace Transpose(weight) by a weight that is stored transposed, under the same name."""
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or source is None or not source.is_initializer() or len(source.uses()) != 1:
            continue
        perm = tuple(node.attributes["perm"].as_ints())
        tensor: Any = source.const_value
        shape = ir.Shape(tensor.shape.numpy()[axis] for axis in perm)
        source.const_value = ir.LazyTensor(
            lambda tensor=tensor, perm=perm, name=source.name: ir.Tensor(  # type: ignore[misc]
                np.ascontiguousarray(tensor.numpy().transpose(perm)), name=name
            ),
            dtype=tensor.dtype,
            shape=shape,
            name=source.name,
        )
        source.shape = shape
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _fix_reshapes(graph: ir.Graph) -> None:
    """Replace a shape that is computed only to keep the first dimension, as by flattening, by a constant: 0 keeps it.

    TensorRT 8.6 cannot infer the rank of a result with a computed shape.
    """
    for node in graph:
        source, computed = (*node.inputs, None, None)[:2]
        if node.op_type != "Reshape" or source is None or computed is None:
            continue
        before, after = source.shape, node.outputs[0].shape
        if ir.convenience.get_const_tensor(computed) is not None:
            continue
        if before is None or after is None or before[0] != after[0] or not all(isinstance(d, int) for d in after[1:]):
            continue
        kept = ir.tensor(np.array([0, *after[1:]], np.int64), name=f"{node.outputs[0].name}/shape")
        shape = ir.node("Constant", [], attributes={"value": kept})
        graph.insert_before(node, shape)
        node.replace_input_with(1, shape.outputs[0])
        node.attributes.pop("allowzero", None)


def _scope(node: ir.Node) -> str:
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    named = [scope for scope in scopes[:-1] if scope and not scope.rpartition(".")[2].startswith("_")]
    return named[-1] if named else ""


def _name_nodes(graph: ir.Graph) -> None:
    """Name every node ``<module>/<operator>``, with a number where there are several, and its results after it."""
    taken: Counter[str] = Counter()
    for node in graph:
        base = f"{_scope(node)}/{node.op_type}".lstrip("/")
        taken[base] += 1
        node.name = base if taken[base] == 1 else f"{base}_{taken[base]}"
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}:{index}"


def _guard_outputs(graph: ir.Graph) -> None:
    """Put an Identity before each output that is a constant or an input: not every parser accepts those bare."""
    for index, value in enumerate(graph.outputs):
        if value.producer() is None:
            node = ir.node("Identity", [value], name=f"output/Identity_{index}")
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[index] = node.outputs[0]


def _forget_origin(model: ir.Model, name: str) -> None:
    model.doc_string = None
    model.producer_name, model.producer_version = "sam3-runtime", None
    model.graph.name, model.graph.doc_string = name, None
    model.graph.metadata_props.clear()
    results = [value for node in model.graph for value in node.outputs]
    for each in (*model.graph, *results, *model.graph.inputs, *model.graph.initializers.values()):
        each.doc_string = None
        each.metadata_props.clear()


def _relabel(model: ir.Model) -> None:
    """Declare the graph as opset 17, after checking that its operators have the same meaning there."""
    for node in model.graph:
        if node.op_type in AXES_WERE_AN_ATTRIBUTE:
            _axes_as_attribute(node)
            continue
        new = onnx.defs.get_schema(node.op_type, TRACED_OPSET, node.domain).since_version
        if new > OPSET and node.op_type not in _SAME_WITHOUT_NEW_ATTRIBUTES:
            raise ExportError(f"{node.op_type} has another meaning in opset {OPSET} than in {TRACED_OPSET}")
        for attribute in _NEW_ATTRIBUTES.get(node.op_type, ()):
            node.attributes.pop(attribute, None)
    model.opset_imports.clear()
    model.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION


def _axes_as_attribute(node: ir.Node) -> None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        known = ir.convenience.get_const_tensor(node.inputs[1])
        if known is None:
            raise ExportError(f"{node.name} reduces over computed axes", "report this as a defect of the export")
        node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in known.numpy().reshape(-1)])
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
