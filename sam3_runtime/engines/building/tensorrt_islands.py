"""FP32 exceptions ("islands") in a weakly typed network: layers that TensorRT must compute in float32.

TensorRT 8.6 takes a graph's types as a suggestion. The layers of an island's nodes, and those without a name that the
parser put between them, get float32 for precision and result. From TensorRT 9 on networks are strongly typed and none
of this is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sam3_runtime.core.wording import counted
from sam3_runtime.engines.building.inspector import ONNX_NODE

_OWN = ("(Unnamed Layer", "ONNXTRT_")
"""How the names of layers begin that the parser adds and that belong to no node."""
_WITHOUT_PRECISION = ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE")
"""Layers whose type is their purpose, or that compute nothing."""


def nodes_of(layer: Any) -> list[str]:
    """Return the ONNX nodes of a layer: by its metadata, else by its name; none for the parser's own."""
    found = ONNX_NODE.findall(getattr(layer, "metadata", "") or "")
    return found or ([] if layer.name.startswith(_OWN) else [layer.name])


def hold_islands(trt: Any, layers: Sequence[Any], nodes: Collection[str]) -> int:
    """Make the layers of ``nodes`` compute in float32; returns how many.

    Nodes without a layer were folded into constants or other layers: the log names them.
    """
    found = [nodes_of(layer) for layer in layers]
    held = sum(_hold(trt, layers[index]) for index in _inside(layers, found, set(nodes)))
    print(f"float32 islands: {counted(len(nodes), 'node')}, {counted(held, 'layer')} computed in float32")
    missing = sorted(set(nodes) - {name for names in found for name in names})
    if missing:
        print(f"float32 islands: no layer of its own for {', '.join(missing)}")
    return held


def _inside(layers: Sequence[Any], nodes: Sequence[list[str]], wanted: set[str]) -> list[int]:
    """Return the indices of the layers of ``wanted`` nodes.

    Those of the parser's own layers that touch them, directly or through one another, are among them.
    """
    touching: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        for name in _tensors(layer):
            touching.setdefault(name, []).append(index)
    inside = {index for index, names in enumerate(nodes) if wanted.intersection(names)}
    waiting = list(inside)
    while waiting:
        for name in _tensors(layers[waiting.pop()]):
            new = [index for index in touching[name] if not nodes[index] and index not in inside]
            inside.update(new)
            waiting += new
    return sorted(inside)


def _tensors(layer: Any) -> list[str]:
    found = [layer.get_input(index) for index in range(layer.num_inputs)]
    found += [layer.get_output(index) for index in range(layer.num_outputs)]
    return [tensor.name for tensor in found if tensor is not None]


def _hold(trt: Any, layer: Any) -> bool:
    """Set precision and result types of a layer that computes in floating point."""
    first = layer.get_input(0) if layer.num_inputs else None
    if layer.type.name in _WITHOUT_PRECISION or (first is not None and first.is_shape_tensor):
        return False
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    floating = [index for index, tensor in enumerate(outputs) if tensor.dtype in (trt.float32, trt.float16)]
    if not floating or any(tensor.is_shape_tensor for tensor in outputs):
        return False
    layer.precision = trt.float32
    for index in floating:
        layer.set_output_type(index, trt.float32)
    return True
