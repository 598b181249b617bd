"""Layers of an engine, read from the JSON of TensorRT's engine inspector.

That is ``IEngineInspector`` or trtexec's ``--exportLayerInfo``, of TensorRT 8.6 to 11.

A layer names its ONNX nodes, in its metadata or in its name, and the type of every tensor that it reads and writes.
With dynamic shapes TensorRT 8.6 gives no such type ("N/A due to dynamic shapes"): there a product's type is that of its
weights, or follows from the name of its tactic. 8.6 also hides whole blocks behind one name (``{ForeignNode[…]}``),
without a tactic: their content counts as unknown. Pure functions over text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam3_runtime.core.wording import counted, percent
from sam3_runtime.records.records import UNKNOWN, Layers

ONNX_NODE = re.compile(r"\[ONNX Layer: (.+?)\]")
"""In a layer's metadata: one of the ONNX nodes that it comes from."""
_TYPES = {
    "BF(?:LOAT)?16": "bfloat16", "FP16|HALF": "float16", "FP32|FLOAT": "float32", "INT8": "int8", "FP8": "fp8",
    "INT64": "int64", "INT32": "int32", "BOOL": "bool",
}  # fmt: skip
"""In a description such as ``Thirty-two wide channel vectorized row major Int8 format``; the first that matches."""
_TACTIC = re.compile(r"(?:^|_)(i8|f16|bf16|f32|e4m3)(?:i8|i32|f16|bf16|f32|e4m3)_")
"""In the name of a product's kernel, such as ``sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_…``: the type of its factors,
followed by that of its result."""
_TACTIC_TYPES = {"i8": "int8", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "e4m3": "fp8"}
_ARITHMETIC = ("float32", "float16", "bfloat16", "int8", "fp8")
_ATTENTION = re.compile(r"(?:^|[^a-z0-9])f?mha(?:[^a-z0-9]|$)|flash_?attention|scaled_dot_product")
_PRODUCT = re.compile(r"gemm|matrixmultiply|matrix_multiply|matmul|convolution|fullyconnected|conv")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine: its kind as TensorRT calls it, its ONNX nodes, the types of its inputs and outputs."""

    name: str
    kind: str
    nodes: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: str
    tactic: str

    @property
    def is_reformat(self) -> bool:
        """Whether it only changes a memory layout or a type."""
        return self.kind.lower() in ("reformat", "reformatter") or self.name.startswith("Reformatting CopyNode")

    @property
    def is_opaque(self) -> bool:
        """Whether it is a block whose content TensorRT hides."""
        return self.kind.lower() == "myelin" or self.name.startswith("{ForeignNode")

    @property
    def type(self) -> str:
        """The type that it computes in: of its weights, its kernel, or its first floating-point or 8-bit tensor."""
        known = () if self.is_opaque else (self.weights, self.tactic, *self.inputs, *self.outputs)
        return next((one for one in known if one in _ARITHMETIC), UNKNOWN)

    @property
    def numbers(self) -> set[str]:
        """The arithmetic types of its inputs and outputs; empty where TensorRT does not show them."""
        return set() if self.is_opaque else {one for one in (*self.inputs, *self.outputs) if one in _ARITHMETIC}


@dataclass(frozen=True)
class Inspection:
    """Layers and matrix products of an engine.

    ``products`` counts matrix products by the type that they compute in; ``unseen`` are the nodes that must run in
    float32 and for which TensorRT does not show whether they do.
    """

    layers: Layers
    products: dict[str, int]
    unseen: list[str]


def parse_layers(text: str) -> list[Layer]:
    """Return the layers in the inspector's JSON; raises :class:`ValueError` or KeyError where it is none."""
    # Not strict: metadata is separated by control characters, which not every release escapes.
    return [_layer(entry) for entry in json.loads(text, strict=False)["Layers"]]


def _layer(entry: Any) -> Layer:
    if isinstance(entry, str):  # an engine that was built without details
        entry = {"Name": entry}
    name = str(entry.get("Name", ""))
    weights, tactic = entry.get("Weights"), _TACTIC.search(str(entry.get("TacticName", "")))
    return Layer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        nodes=frozenset(ONNX_NODE.findall(str(entry.get("Metadata", ""))) or name.split(" + ")),
        inputs=tuple(map(_type, entry.get("Inputs", []))),
        outputs=tuple(map(_type, entry.get("Outputs", []))),
        weights=_named_type(str(weights.get("Type", ""))) if isinstance(weights, dict) else UNKNOWN,
        tactic=_TACTIC_TYPES[tactic[1]] if tactic else UNKNOWN,
    )


def _type(tensor: Any) -> str:
    """Return the type of a tensor; 11 has two fields where other releases have one."""
    fields = ("Datatype", "DataType", "Format/Datatype", "Format/DataType", "Format")
    return _named_type(next((str(tensor[name]) for name in fields if isinstance(tensor, dict) and name in tensor), ""))


def _named_type(text: str) -> str:
    return next((name for pattern, name in _TYPES.items() if re.search(pattern, text.upper())), UNKNOWN)


def inspect_layers(layers: Sequence[Layer], products: Mapping[str, int], wide: Collection[str] = ()) -> Inspection:
    """Count ``layers``.

    ``products`` are the graph's matrix products with the size of their weights, ``wide`` the nodes that must run in
    float32.
    """
    computing = [layer for layer in layers if not layer.is_reformat]
    where: dict[str, list[Layer]] = {}
    for layer in computing:
        for node in layer.nodes:
            where.setdefault(node, []).append(layer)
    types = {node: _product_type(where.get(node, [])) for node in products}
    work: Counter[str] = Counter()
    for node, weights in products.items():
        work[types[node]] += weights
    shown = {node: [layer.numbers for layer in where.get(node, []) if layer.numbers] for node in wide}
    counts = Layers(
        count=len(layers),
        types=dict(sorted(Counter(map(_output_type, computing)).items())),
        work={kind: amount for kind, amount in sorted(work.items()) if amount},
        attention=sum(_ATTENTION.search(f"{layer.name} {layer.kind}".lower()) is not None for layer in computing),
        reformats=len(layers) - len(computing),
        opaque=sum(layer.is_opaque for layer in layers),
        narrowed=tuple(sorted(node for node, found in shown.items() if any("float32" not in one for one in found))),
    )
    unseen = sorted(node for node, found in shown.items() if not found)
    return Inspection(counts, dict(sorted(Counter(types.values()).items())), unseen)


def _product_type(layers: Sequence[Layer]) -> str:
    """Return the type of a matrix product: that of the layer that multiplies, where several name the node."""
    ranked = sorted(layers, key=lambda layer: not _PRODUCT.search(layer.kind.lower()))
    return ranked[0].type if ranked else UNKNOWN


def _output_type(layer: Layer) -> str:
    return UNKNOWN if layer.is_opaque else next((one for one in layer.outputs if one != UNKNOWN), UNKNOWN)


def report_layers(found: Inspection) -> list[str]:
    """Return lines for people.

    What the engine is made of, what differs from the request, and what TensorRT does not show.
    """
    layers, whole = found.layers, sum(found.layers.work.values()) or 1
    shares = ", ".join(f"{_shown(kind)} {percent(amount / whole)}" for kind, amount in layers.work.items())
    counts = ", ".join(f"{_shown(kind)} {count}" for kind, count in layers.types.items())
    lines = [
        f"{counted(layers.count, 'layer')} ({counts}), {counted(layers.attention, 'fused attention')}, "
        f"{counted(layers.reformats, 'reformat')}, {counted(layers.opaque, 'block')} whose content TensorRT hides",
        f"matrix work: {shares or 'none'}",
    ]
    if layers.narrowed:
        lines.append(f"WARNING: float32 was asked for and is not used in {', '.join(layers.narrowed)}")
    if found.unseen:
        nodes = counted(len(found.unseen), "node")
        lines.append(f"{nodes} must run in float32, and this TensorRT does not show whether they do")
    return lines


def _shown(kind: str) -> str:
    return "not reported by this TensorRT:" if kind == UNKNOWN else kind
