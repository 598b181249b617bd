"""What an engine is made of, read from the JSON of TensorRT's engine inspector (``IEngineInspector``, trtexec's
``--exportLayerInfo``), of TensorRT 8.6 to 11.

A layer says which ONNX nodes it comes from, in its metadata or in its name, and the type of every tensor that it reads
and writes. Of an engine with dynamic shapes TensorRT 8.6 tells no such type ("N/A due to dynamic shapes"), given a
context or not: there a product's type is that of its weights, or what its tactic is called. 8.6 also hides whole blocks
behind one name (``{ForeignNode[…]}``), without a tactic: what is inside counts as unknown. Pure functions over text;
knows the graph by the names of its nodes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam3_runtime.core.wording import counted, percent
from sam3_runtime.records.records import UNKNOWN, Layers

_NODE = re.compile(r"\[ONNX Layer: (.+?)\]")
_TYPES = (
    (re.compile(r"BF(?:LOAT)?16"), "bfloat16"),
    (re.compile(r"FP16|HALF"), "float16"),
    (re.compile(r"FP32|FLOAT"), "float32"),
    (re.compile(r"INT8"), "int8"),
    (re.compile(r"FP8"), "fp8"),
    (re.compile(r"INT64"), "int64"),
    (re.compile(r"INT32"), "int32"),
    (re.compile(r"BOOL"), "bool"),
)
"""Of a description such as ``Thirty-two wide channel vectorized row major Int8 format``; the first that is in it."""
_TACTIC = re.compile(r"(?:^|_)(i8|f16|bf16|f32|e4m3)(?:i8|i32|f16|bf16|f32|e4m3)_")
"""In the name of a product's kernel, such as ``sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_…``: the first type is that of
what it multiplies, the one behind it that of its result."""
_TACTIC_TYPES = {"i8": "int8", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "e4m3": "fp8"}
_ARITHMETIC = ("float32", "float16", "bfloat16", "int8", "fp8")
_ATTENTION = re.compile(r"(?:^|[^a-z0-9])f?mha(?:[^a-z0-9]|$)|flash_?attention|scaled_dot_product")
_PRODUCT = re.compile(r"gemm|matrixmultiply|matrix_multiply|matmul|convolution|fullyconnected|conv")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine: its kind as TensorRT calls it, the nodes that it computes, the types at its ends."""

    name: str
    kind: str
    nodes: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: str | None
    tactic: str

    @property
    def is_reformat(self) -> bool:
        return self.kind.lower() in ("reformat", "reformatter") or self.name.startswith("Reformatting CopyNode")

    @property
    def is_opaque(self) -> bool:
        return self.kind.lower() == "myelin" or self.name.startswith("{ForeignNode")

    @property
    def is_product(self) -> bool:
        return _PRODUCT.search(self.kind.lower()) is not None

    @property
    def type(self) -> str:
        """What it computes in: its weights' type or its kernel's, else that of the first number at its ends."""
        if self.is_opaque:
            return UNKNOWN
        known = (self.weights or UNKNOWN, self.tactic, *self.inputs, *self.outputs)
        return next((one for one in known if one in _ARITHMETIC), UNKNOWN)

    @property
    def numbers(self) -> set[str]:
        """The types of numbers at its ends; none where they are not told."""
        return {one for one in (*self.inputs, *self.outputs) if one in _ARITHMETIC}


def parse_layers(text: str) -> list[Layer]:
    """The layers in the inspector's JSON; :class:`ValueError` where it is none."""
    # Not strict: metadata is separated by control characters, which not every release escapes.
    return [_layer(entry) for entry in json.loads(text, strict=False)["Layers"]]


def _layer(entry: Any) -> Layer:
    if isinstance(entry, str):  # an engine that was built without details
        entry = {"Name": entry}
    name = str(entry.get("Name", ""))
    told = _NODE.findall(str(entry.get("Metadata", "")))
    weights = entry.get("Weights")
    return Layer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        nodes=frozenset(told or name.split(" + ")),
        inputs=tuple(map(_type, entry.get("Inputs", []))),
        outputs=tuple(map(_type, entry.get("Outputs", []))),
        weights=_named_type(str(weights.get("Type", ""))) if isinstance(weights, dict) else None,
        tactic=_tactic_type(str(entry.get("TacticName", ""))),
    )


def _type(tensor: Any) -> str:
    """11 has two fields where the others have one."""
    fields = ("Datatype", "DataType", "Format/Datatype", "Format/DataType", "Format")
    said = (str(tensor[name]) for name in fields if isinstance(tensor, dict) and name in tensor)
    return _named_type(next(said, ""))


def _named_type(said: str) -> str:
    return next((name for pattern, name in _TYPES if pattern.search(said.upper())), UNKNOWN)


def _tactic_type(kernel: str) -> str:
    found = _TACTIC.search(kernel)
    return _TACTIC_TYPES[found[1]] if found else UNKNOWN


def read_layers(layers: Iterable[Layer], products: Mapping[str, int], islands: Collection[str] = ()) -> Layers:
    """Count ``layers``. ``products`` are the graph's matrix products with the size of their weights, ``islands`` the
    nodes that are to run in float32 and may not."""
    found = list(layers)
    where = _layers_by_node(found)
    work: Counter[str] = Counter()
    for node, weights in products.items():
        work[_product_type(where.get(node, []))] += weights
    counted = [layer for layer in found if not layer.is_reformat]
    return Layers(
        count=len(found),
        types=dict(sorted(Counter(_written(layer) for layer in counted).items())),
        work={kind: amount for kind, amount in sorted(work.items()) if amount},
        attention=sum(_is_attention(layer) for layer in found),
        reformats=sum(layer.is_reformat for layer in found),
        opaque=sum(layer.is_opaque for layer in found),
        narrowed=tuple(sorted(node for node in islands if _is_narrow(where.get(node, [])))),
    )


def unseen_islands(layers: Iterable[Layer], islands: Collection[str]) -> list[str]:
    """The ``islands`` of which the engine does not tell whether they run in float32."""
    where = _layers_by_node(layers)
    return sorted(node for node in islands if not any(one.numbers and not one.is_opaque for one in where.get(node, [])))


def count_products(layers: Iterable[Layer], products: Iterable[str]) -> dict[str, int]:
    """Matrix products of the graph by the type that the engine computes them in."""
    where = _layers_by_node(layers)
    return dict(sorted(Counter(_product_type(where.get(node, [])) for node in products).items()))


def _layers_by_node(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    where: dict[str, list[Layer]] = {}
    for layer in layers:
        for node in layer.nodes if not layer.is_reformat else ():
            where.setdefault(node, []).append(layer)
    return where


def _product_type(layers: list[Layer]) -> str:
    """Of a product that several layers mention, the one that multiplies does it."""
    ranked = sorted(layers, key=lambda layer: not layer.is_product)
    return ranked[0].type if ranked else UNKNOWN


def _written(layer: Layer) -> str:
    return UNKNOWN if layer.is_opaque else next((one for one in layer.outputs if one != UNKNOWN), UNKNOWN)


def _is_attention(layer: Layer) -> bool:
    return _ATTENTION.search(f"{layer.name} {layer.kind}".lower()) is not None


def _is_narrow(layers: list[Layer]) -> bool:
    """Whether a node runs where no float32 comes in or goes out though numbers do."""
    return any(layer.numbers and "float32" not in layer.numbers and not layer.is_opaque for layer in layers)


def report_layers(layers: Layers, unseen: Sequence[str] = ()) -> list[str]:
    """For people: what the engine is made of, what is not as it was asked for, and what this version does not tell.

    ``unseen`` are islands as :func:`unseen_islands` gives them.
    """
    whole = sum(layers.work.values()) or 1
    shares = ", ".join(f"{_told(kind)} {percent(amount / whole)}" for kind, amount in layers.work.items())
    counts = ", ".join(f"{_told(kind)} {count}" for kind, count in layers.types.items())
    lines = [
        f"{counted(layers.count, 'layer')} ({counts}), {counted(layers.attention, 'fused attention')}, "
        f"{counted(layers.reformats, 'reformat')}, "
        f"{counted(layers.opaque, 'block')} whose inside TensorRT does not show",
        f"matrix work: {shares or 'none'}",
    ]
    if layers.narrowed:
        lines.append(f"WARNING: float32 was asked for and is not used in {', '.join(layers.narrowed)}")
    if unseen:
        lines.append(
            f"{counted(len(unseen), 'node')} told to run in float32, and this TensorRT does not tell whether they do"
        )
    return lines


def _told(kind: str) -> str:
    return "not told by this TensorRT:" if kind == UNKNOWN else kind
