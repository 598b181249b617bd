"""Reads what an exported ONNX graph says about itself, without its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError

from sam3_runtime.errors import BuildError
from sam3_runtime.files import sha256_of

QuantizeName = Literal["int8", "fp8"]
PrecisionName = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Graph:
    """An exported graph's identity: its name (``decoder_q50``), digest with external data, opset, and metadata."""

    name: str
    sha256: str
    checkpoint_digest: str
    dims: dict[str, int]
    resolution: int | None
    queries: int | None
    quantize: QuantizeName | None
    calibration_key: str | None
    opset: int
    precision: PrecisionName


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
            resolution=_number(metadata, "resolution"),
            queries=_number(metadata, "queries"),
            quantize=metadata.get("quantize"),  # type: ignore[arg-type]
            calibration_key=metadata.get("calibration_key"),
            opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
            precision=metadata.get("precision", "fp32"),  # type: ignore[arg-type]
        )
    except (DecodeError, KeyError, ValueError, OSError) as error:
        raise BuildError(
            f"{path} is damaged or was not written by this project's export ({type(error).__name__}: {error})",
            f"delete it and run snakemake {path}",
        ) from None


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


def _number(metadata: dict[str, str], key: str) -> int | None:
    value = metadata.get(key, "")
    return int(value) if value not in ("", "None") else None
