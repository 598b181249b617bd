"""Records for tests: valid, with what a test wants to be different."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sam3_runtime.core.files import sha256_of
from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.parts import PARTS, ModelDims, fixed_dims
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.records.records import EngineRecord, Sizes, TensorRecord, Toolchain

DIMS = ModelDims(window=8, channels=64, image_size=336)
TYPES = {"float": "float32", "float32": "float32", "int64": "int64", "bool": "bool"}


def engine_record(part: str, batch: int = 8, resolution: int = 672, queries: int = 50, **changes: Any) -> EngineRecord:
    """The record of an engine that does not exist."""
    spec = PARTS[part]  # type: ignore[index]
    values = fixed_dims(DIMS, resolution, queries)

    def tensors(listed: Any) -> tuple[TensorRecord, ...]:
        return tuple(
            TensorRecord(name=tensor.name, shape=resolve(tensor.shape, values), dtype=TYPES[tensor.dtype])
            for tensor in listed
        )

    fields: dict[str, Any] = {
        "part": part,
        "graph": {"decoder": f"decoder_q{queries}"}.get(part, part),
        "sha256": "0" * 64,
        "onnx_sha256": "1" * 64,
        "checkpoint_digest": "2" * 64,
        "backend": "onnxruntime",
        "precision": "fp32",
        "dims": DIMS.to_dict(),
        "resolution": resolution if "resolution" in spec.depends_on else None,
        "queries": queries if "queries" in spec.depends_on else None,
        "batch": batch,
        "inputs": tensors(spec.inputs),
        "outputs": tensors(spec.outputs),
        "profile": {k: (r.min, r.opt, r.max) for k, r in SAM3.profile(spec, DIMS, batch).items()},
        "sizes": Sizes(file=1 << 20),
        "build_seconds": 1.5,
        "command": "true",
        "toolchain": Toolchain(backend="onnxruntime", version="1.0"),
        "settings": {},
        "cache_key": "3" * 32,
    }
    return EngineRecord(**fields | changes)


def changed(record: EngineRecord, **changes: Any) -> EngineRecord:
    """A copy with other values of some fields; axes are given by their names."""
    axes = {axis: changes.pop(axis) for axis in record.axes if axis in changes}
    return record.model_copy(update=changes | {"axes": {**record.axes, **axes}})


def write_engine(folder: Path, part: str, content: bytes | None = None, **changes: Any) -> EngineRecord:
    """An engine's file in ``folder``, of the given content or of 1 MiB, and the record that is about it."""
    path = folder / f"{part}.engine"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{part} {changes}".encode().ljust(1 << 20) if content is None else content)
    found = {"sha256": sha256_of(path), "sizes": Sizes(file=path.stat().st_size)}
    record = engine_record(part, **found | changes)
    record.write(folder / f"{part}.engine.json")
    return record


def ort_task(graph: Path, engine: Path, **settings: str) -> Any:
    """What the building module of ONNX Runtime reads of a task."""
    return SimpleNamespace(path=graph, engine=engine, settings=settings)
