"""Float32 islands in a weakly typed network: layers that TensorRT is obliged to compute in float32.

TensorRT 8.6 reads a graph's types as a suggestion. The layers that come from an island's nodes, and those without a
name that the parser put between them, get float32 for precision and result. Knows islands by the names of ONNX nodes
alone; from TensorRT 9 on, networks are strongly typed and none of this is needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from sam3_runtime.core.wording import counted

_NODE = re.compile(r"\[ONNX Layer: (.+?)\]")
_OWN = ("(Unnamed Layer", "ONNXTRT_")
"""What the names of layers begin with that the parser adds and that no node is responsible for."""
_NOT_TOLD = ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE")
"""Layers whose type is what they are for, or that compute nothing."""


def nodes_of(layer: Any) -> list[str]:
    """The ONNX nodes that a layer comes from: by its metadata, else by its name; none for the parser's own."""
    told = _NODE.findall(getattr(layer, "metadata", "") or "")
    return told or ([] if layer.name.startswith(_OWN) else [layer.name])


def hold_islands(trt: Any, layers: Sequence[Any], nodes: Collection[str]) -> int:
    """Oblige the layers of ``nodes`` to float32; how many there are.

    Nodes without a layer were folded into constants or other layers: they are named in the log.
    """
    inside = _inside(layers, nodes)
    told = [layer for layer in inside if _hold(trt, layer)]
    found = {name for layer in layers for name in nodes_of(layer)}
    missing = sorted(set(nodes) - found)
    print(f"float32 islands: {counted(len(nodes), 'node')}, {counted(len(told), 'layer')} obliged to float32")
    if missing:
        print(f"float32 islands: no layer of its own for {', '.join(missing)}")
    return len(told)


def _inside(layers: Sequence[Any], nodes: Collection[str]) -> list[Any]:
    """The layers of ``nodes``, and the parser's own that touch them, directly or through one another."""
    wanted = set(nodes)
    is_own = [not nodes_of(layer) for layer in layers]
    inside = {place for place, layer in enumerate(layers) if wanted.intersection(nodes_of(layer))}
    touching: dict[str, list[int]] = {}
    for place, layer in enumerate(layers):
        for name in _tensors(layer):
            touching.setdefault(name, []).append(place)
    waiting = list(inside)
    while waiting:
        for name in _tensors(layers[waiting.pop()]):
            new = [place for place in touching[name] if is_own[place] and place not in inside]
            inside.update(new)
            waiting += new
    return [layers[place] for place in sorted(inside)]


def _tensors(layer: Any) -> list[str]:
    found = [layer.get_input(place) for place in range(layer.num_inputs)]
    found += [layer.get_output(place) for place in range(layer.num_outputs)]
    return [tensor.name for tensor in found if tensor is not None]


def _hold(trt: Any, layer: Any) -> bool:
    """Set precision and result types where there is something in floating point to set them for."""
    if layer.type.name in _NOT_TOLD or (layer.num_inputs and _is_shape(layer.get_input(0))):
        return False
    outputs = [(place, layer.get_output(place)) for place in range(layer.num_outputs)]
    floating = [place for place, tensor in outputs if tensor.dtype in (trt.float32, trt.float16)]
    if not floating or any(tensor.is_shape_tensor for _, tensor in outputs):
        return False
    layer.precision = trt.float32
    for place in floating:
        layer.set_output_type(place, trt.float32)
    return True


def _is_shape(tensor: Any) -> bool:
    return tensor is not None and tensor.is_shape_tensor
