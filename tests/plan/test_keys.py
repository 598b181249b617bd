"""Cache keys of engines, pinned: what they depend on may not change by moving code, or every folder is built again.

``code`` is given here; what it is of each rule is pinned in ``test_carried_code.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.engines import building as builders
from sam3_runtime.engines.building import CalibrationCache, Task, build_engine
from sam3_runtime.families.sam3.parts import ModelDims
from sam3_runtime.graphs.read import Graph
from sam3_runtime.plan.planning import make_plan
from sam3_runtime.records.records import Toolchain

H200 = {"gpu": "NVIDIA H200", "compute_capability": "9.0"}
VERSIONS = {"onnxruntime": "1.32.0", "tensorrt-rtx": "1.7.1", "tensorrt": "8.6.1"}
GRAPHS = {
    "text-encoder": "text-encoder",
    "vision-encoder": "vision-encoder",
    "vision-encoder_int8": "vision-encoder",
    "geometry-encoder": "geometry-encoder",
    "decoder_q50": "decoder",
}
PINNED = {
    ("onnxruntime", "text-encoder", False): "322228e437df024c6d88f746cc3a63c2",
    ("onnxruntime", "vision-encoder", False): "0db70f64bd664a829ab173927c0270f4",
    ("onnxruntime", "vision-encoder_int8", False): "cf4c2e4f0f82e1dc8580227755188e19",
    ("onnxruntime", "geometry-encoder", False): "4078fc9afbd84e1cd1e4b5151a1d7c09",
    ("onnxruntime", "decoder_q50", False): "39118f391b0d456a27bbb6bab3c92d1c",
    ("tensorrt-rtx", "text-encoder", False): "573d206a812617ca7d4e87c13da0a5bb",
    ("tensorrt-rtx", "decoder_q50", False): "023fa63103becbf8ad0501ba3164627a",
    ("tensorrt-rtx", "vision-encoder_int8", False): "19cd0816ca0c4a392047eb949167c8f2",
    ("tensorrt", "geometry-encoder", False): "a3302382631b339670bd7ca1791fd78b",
    ("tensorrt", "vision-encoder_int8", False): "d4ec9e95ab365aa0e5a1a39192cc954e",
    ("tensorrt", "vision-encoder_int8", True): "54a949e5bc539ccc08caf0c0b32286da",
}


def key_of(folder: Path, backend: str, graph: str, monkeypatch: pytest.MonkeyPatch, calibrated: bool = False) -> str:
    """The key that the rules give the engine of ``graph``, of which nothing is read."""
    method = {"method": "calibrator"} if calibrated else {}
    (folder / "variants.yaml").write_text(
        f"backend: {backend}\ncalibration: {method}\n"
        "build: {optimal: {n: 3}, tensorrt: {workspace_mib: 4096}}\n"
        "variants: [{batch: 8, queries: 50, resolution: 672, quantize: [none, int8]}]\n"
    )
    toolchain = Toolchain(backend=backend, version=VERSIONS[backend], **(H200 if backend == "tensorrt" else {}))  # type: ignore[arg-type]
    monkeypatch.setattr("sam3_runtime.plan.planning.resolve", lambda *_: toolchain)
    plan = make_plan(folder / "variants.yaml", folder)
    part = GRAPHS[graph]
    eight_bit = graph.endswith("_int8")
    made = Graph(
        name="vision-encoder_fp32" if calibrated else graph,
        sha256="a" * 64,
        checkpoint_digest="b" * 64,
        precision="fp32" if eight_bit and backend == "tensorrt" else plan.precision(part),  # type: ignore[arg-type]
        quantize="int8" if eight_bit and not calibrated else None,
        calibration_key="c" * 64 if eight_bit and not calibrated else None,
        dims=ModelDims().to_dict(),
        axes={"resolution": 672, "queries": 50},
        opset=17,
    )
    (folder / "scales").write_bytes(b"scales")
    keys: list[str] = []
    monkeypatch.setattr(builders, "read_graph", lambda _: made)
    monkeypatch.setattr(builders, "get_or_build", lambda _engine, key, _cache, _build: keys.append(key))
    slices: dict[str, Any] = plan.build()
    task = Task.of(
        folder / f"{graph}.onnx",
        folder / f"{graph}.engine",
        batch=8,
        precision=plan.precision(part),  # type: ignore[arg-type]
        toolchain=slices["toolchain"],
        settings=slices["settings"] | ({"products": "u8s8"} if eight_bit and backend == "onnxruntime" else {}),
        calibration=CalibrationCache(folder / "scales", "entropy", "e" * 64) if calibrated else None,
    )
    build_engine(task, code="d" * 16, cache=folder / "cache")
    return keys[0]


CASES = [
    ("onnxruntime", "text-encoder", False),
    ("onnxruntime", "vision-encoder", False),
    ("onnxruntime", "vision-encoder_int8", False),
    ("onnxruntime", "geometry-encoder", False),
    ("onnxruntime", "decoder_q50", False),
    ("tensorrt-rtx", "text-encoder", False),
    ("tensorrt-rtx", "decoder_q50", False),
    ("tensorrt-rtx", "vision-encoder_int8", False),
    ("tensorrt", "geometry-encoder", False),
    ("tensorrt", "vision-encoder_int8", False),
    ("tensorrt", "vision-encoder_int8", True),
]


@pytest.mark.parametrize(("backend", "graph", "calibrated"), CASES)
def test_keys_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, graph: str, calibrated: bool
) -> None:
    assert key_of(tmp_path, backend, graph, monkeypatch, calibrated) == PINNED[backend, graph, calibrated]
