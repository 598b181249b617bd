"""Reads an exported ONNX graph's metadata and structure, without its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.families import family_of
from sam3_runtime.families.base import FamilySpec, Part
from sam3_runtime.records.records import Preprocessing

QuantizeName = Literal["int8", "fp8"]
PrecisionName = Literal["fp32", "fp16"]
_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_WEIGHTS_PASS = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Cast")
AXES_WERE_AN_ATTRIBUTE = frozenset(["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"])
"""Reductions whose axes are an attribute in opset 17 and an input from opset 18 on."""


@dataclass(frozen=True)
class Graph:
    """An exported graph's identity: its name (``decoder_q50``), digest with external data, opset, and metadata.

    ``axes`` are the values of the axes that it depends on. ``islands`` are the nodes of a float16 graph that compute in
    float32, by island, without those that have no floating-point result. ``products`` maps matrix products and
    convolutions to the size of their weights, which is the cost of one position of the output; 0 for a product of two
    activations.
    """

    name: str
    sha256: str
    checkpoint_digest: str
    dims: dict[str, int]
    axes: dict[str, int]
    quantize: QuantizeName | None
    calibration_key: str | None
    opset: int
    precision: PrecisionName
    family: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    islands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    products: Mapping[str, int] = field(default_factory=dict)

    @property
    def spec(self) -> FamilySpec:
        """The family that the graph belongs to."""
        return family_of(self.family)

    @property
    def part(self) -> Part:
        """The part of the model that the graph computes."""
        return self.spec.part_of(self.name)

    @property
    def fixed(self) -> dict[str, int]:
        """The values of the symbolic dimensions that are fixed in the graph."""
        return self.spec.fixed(self.spec.dims(**self.dims), self.axes)


def read_graph(path: Path) -> Graph:
    """Read the graph at ``path``; raise :class:`BuildError` when the file is not a graph that this project exported."""
    try:
        model = onnx.load(path, load_external_data=False)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        keys = family_of(metadata.get("family")).keys
        return Graph(
            name=path.stem,
            sha256=sha256_of(path, *external_files(path, model)),
            checkpoint_digest=metadata["checkpoint_digest"],
            dims=json.loads(metadata["dims"]),
            family=metadata.get("family"),
            axes={key: int(metadata[key]) for key in keys if metadata.get(key, "") not in ("", "None")},
            preprocessing=Preprocessing.model_validate_json(metadata.get("preprocessing", "{}")),
            quantize=metadata.get("quantize"),  # type: ignore[arg-type]
            calibration_key=metadata.get("calibration_key"),
            opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
            precision=metadata.get("precision", "fp32"),  # type: ignore[arg-type]
            islands=_islands(model, json.loads(metadata.get("islands", "{}"))),
            products=_products(model),
        )
    except (DecodeError, KeyError, ValueError, OSError) as error:
        raise BuildError(
            f"{path} is damaged or was not written by this project's export ({type(error).__name__}: {error})",
            f"delete it and run snakemake {path}",
        ) from None


def _islands(model: Any, listed: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    values = [*model.graph.value_info, *model.graph.output]
    floating = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    # The type of a Cast is its own attribute.
    wide = {node.name for node in model.graph.node if node.op_type != "Cast" and floating.intersection(node.output)}
    return {island: tuple(name for name in names if name in wide) for island, names in listed.items()}


def _products(model: Any) -> dict[str, int]:
    """Map the products to the sizes of their weights, which may pass a DequantizeLinear or a Transpose before."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:  # in order of computation
        if node.op_type in _PRODUCTS:
            found[node.name] = max((sizes.get(name, 0) for name in node.input[:2]), default=0)
        elif node.op_type in _WEIGHTS_PASS and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    return found


def external_files(path: Path, model: Any) -> list[Path]:
    """Return the files beside ``path`` that contain the weights of its ``model``, sorted."""
    tensors = filter(uses_external_data, model.graph.initializer)
    return sorted({path.parent / ExternalDataInfo(tensor).location for tensor in tensors})
