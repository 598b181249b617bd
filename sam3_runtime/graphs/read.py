"""Reads what an exported ONNX graph says about itself, without its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.families import family_of
from sam3_runtime.families.base import FamilySpec, Part
from sam3_runtime.records.records import Preprocessing

QuantizeName = Literal["int8", "fp8"]
PrecisionName = Literal["fp32", "fp16"]
AXES_WERE_AN_ATTRIBUTE = frozenset(["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"])
"""Reductions that have their axes as an attribute in opset 17, and as an input from 18 on."""


@dataclass(frozen=True)
class Graph:
    """An exported graph's identity: its name (``decoder_q50``), digest with external data, opset, and metadata.
    ``axes`` are those that it differs by.

    ``islands`` are the nodes that compute in float32 in a float16 graph, by island, those with a floating-point result
    alone. ``products`` are the matrix products and convolutions with the size of their weights, which is what each
    costs for one position of its output; those of two activations have none.
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
        return family_of(self.family)

    @property
    def part(self) -> Part:
        return self.spec.part_of(self.name)

    @property
    def fixed(self) -> dict[str, int]:
        """The values of the symbols that it fixes."""
        return self.spec.fixed(self.spec.dims(**self.dims), self.axes)


def read_graph(path: Path) -> Graph:
    """Raises :class:`BuildError` when the file is no graph of this project's."""
    try:
        model = onnx.load(path, load_external_data=False)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        return Graph(
            name=path.stem,
            sha256=sha256_of(path, *external_files(path, model)),
            checkpoint_digest=metadata["checkpoint_digest"],
            dims=json.loads(metadata["dims"]),
            family=metadata.get("family"),
            axes=_axes(metadata),
            preprocessing=_preprocessing(metadata),
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
    # A Cast says itself what it writes.
    wide = {node.name for node in model.graph.node if node.op_type != "Cast" and floating.intersection(node.output)}
    return {island: tuple(name for name in names if name in wide) for island, names in listed.items()}


def _products(model: Any) -> dict[str, int]:
    """Weights reach a product as they are, or by way of a DequantizeLinear and a Transpose."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:  # in order of computation
        if node.op_type in _PRODUCTS:
            found[node.name] = max((sizes.get(name, 0) for name in node.input[:2]), default=0)
        elif node.op_type in _WEIGHTS_PASS and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    return found


_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_WEIGHTS_PASS = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Cast")


def external_files(path: Path, model: Any) -> list[Path]:
    """The files beside ``path`` that hold its weights, sorted."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]


def _axes(metadata: dict[str, str]) -> dict[str, int]:
    """Those that the graph differs by."""
    found = {key: metadata.get(key, "") for key in family_of(metadata.get("family")).keys}
    return {key: int(value) for key, value in found.items() if value not in ("", "None")}


def _preprocessing(metadata: dict[str, str]) -> Preprocessing:
    return Preprocessing.model_validate_json(metadata.get("preprocessing", "{}"))
