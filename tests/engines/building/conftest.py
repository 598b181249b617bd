"""Graphs for NVIDIA's builder: the four parts of the small checkpoint, their 8-bit forms, and a few with known sins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx.checker") and pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sam3_runtime.families.sam3.parts import PARTS  # noqa: E402
from sam3_runtime.plan.paths import graph_id  # noqa: E402
from sam3_runtime.plan.variants import Variant  # noqa: E402
from tests.workflow.conftest import WorkFolder, exported_once, make_folder  # noqa: E402, F401

RESOLUTION, QUERIES = 112, 20


@pytest.fixture(scope="session")
def typed_graphs(exported_once: WorkFolder) -> dict[str, Path]:  # noqa: F811
    """The four parts of the small checkpoint in float16, by the name of their graph."""
    variant = Variant.from_name(f"b1_q{QUERIES}_r{RESOLUTION}")
    made = [exported_once.path / f"onnx/{graph_id(part, variant)}.onnx" for part in PARTS.values()]
    return {path.stem: path for path in made}


@pytest.fixture(scope="session")
def float_graphs(graph_path: Callable[..., Path]) -> Path:
    """The vision encoder in float32: what 8 bits come from where flags decide the precision."""
    pytest.importorskip("torch")
    return graph_path("vision-encoder", RESOLUTION)


@pytest.fixture(scope="session")
def eight_bit_graph(typed_graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The vision encoder's ``int8`` or ``fp8`` form. Its ranges are made up: a builder does not mind."""
    from sam3_runtime.graphs.read import read_graph
    from sam3_runtime.quantize.insert import quantize_graph
    from tests.quantize.conftest import calibration_of

    folder = tmp_path_factory.mktemp("eight_bit")
    for file in typed_graphs["vision-encoder"].parent.glob("vision-encoder.onnx*"):
        shutil.copy(file, folder)  # 8-bit forms share its weights, and lie beside it
    graph = folder / "vision-encoder.onnx"

    def make(quantize: str) -> Path:
        model = onnx.load(graph, load_external_data=False)
        entering = {
            name for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv") for name in node.input
        }
        weights = {name for name in entering if name.endswith(".weight")}
        scales, output = folder / "scales.json", folder / f"vision-encoder_{quantize}.onnx"
        ranges = {name.removesuffix(".weight"): 8.0 for name in sorted(weights)}
        calibration_of(read_graph(graph).sha256, ranges).write(scales)
        quantize_graph(graph, scales, output, exclude=[], quantize=quantize)  # type: ignore[arg-type]
        return output

    return make


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of a few nodes as this project's ``vision-encoder``: ``images`` [B, 3, 16, 16] in, ``y`` out."""

    def write(
        nodes: list[Any],
        *,
        opset: int = 17,
        dtype: int = TensorProto.FLOAT16,
        name: str = "vision-encoder",
        **constants: Any,
    ) -> Path:
        value = helper.make_tensor_value_info
        tensors = [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()]
        graph = helper.make_graph(
            nodes, "sin", [value("images", dtype, ["B", 3, 16, 16])], [value("y", dtype, None)], tensors
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        dims = {"patch": 8, "window": 2, "queries": 200, "channels": 8, "text_tokens": 32, "image_size": 16}
        facts = {"checkpoint_digest": "c" * 64, "dims": json.dumps(dims), "resolution": "16"}
        for key, text in facts.items():
            model.metadata_props.add(key=key, value=text)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        return path

    return write
