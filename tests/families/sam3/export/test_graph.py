"""What is in the exported files, and that the same checkpoint always gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.export import checkpoint
from sam3_runtime.families.sam3.export.graph import export_part
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, PartName, fixed_dims
from sam3_runtime.graphs.cleanup import FORBIDDEN
from sam3_runtime.records.records import CheckpointLock
from tests.conftest import SMALL

TYPES = {
    "float": onnx.TensorProto.FLOAT,
    "float32": onnx.TensorProto.FLOAT,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}


MEETING: tuple[PartName, ...] = ("geometry-encoder", "decoder")
"""Parts in which N images meet P prompts."""


def load(path: Path) -> Any:
    return onnx.load(str(path), load_external_data=False)


@pytest.mark.parametrize("part", PART_NAMES)
def test_interface_is_the_contracts(graph_path: Any, demo_lock: CheckpointLock, part: PartName) -> None:
    graph = load(graph_path(part)).graph
    fixed = fixed_dims(demo_lock.model_dims, SMALL, 50)
    for values, tensors in ((graph.input, PARTS[part].inputs), (graph.output, PARTS[part].outputs)):
        assert [value.name for value in values] == [tensor.name for tensor in tensors]
        for value, tensor in zip(values, tensors, strict=True):
            dims = value.type.tensor_type.shape.dim
            assert tuple(dim.dim_param or dim.dim_value for dim in dims) == resolve(tensor.shape, fixed)
            assert value.type.tensor_type.elem_type == TYPES[tensor.dtype]


@pytest.mark.parametrize("part", PART_NAMES)
def test_graph_is_clean(graph_path: Any, part: PartName) -> None:
    model = load(graph_path(part))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    operators = {node.op_type for node in model.graph.node}
    assert not operators & FORBIDDEN
    assert not operators & {"Sin"} or part in ("geometry-encoder", "decoder")
    assert [node.op_type for node in model.graph.node].count("Range") == (part in MEETING), "they repeat N rows to P"
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert "Softmax" in operators
    produced = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Softmax":
            users = [user.op_type for user in model.graph.node if node.output[0] in user.input]
            assert users == ["MatMul"]
        if node.op_type == "Reshape" and part in ("vision-encoder", "text-encoder", "decoder"):
            assert node.input[1] not in produced, "shapes are not computed in the graph"
    constant = {value.name for value in model.graph.initializer}
    foldable = [node.name for node in model.graph.node if constant.issuperset(filter(None, node.input))]
    # The first decoder layer's box bias is spread in the graph: as a constant it would be large.
    assert all(name.startswith(("output/Identity", "decoder/Add")) for name in foldable), foldable


@pytest.mark.parametrize("part", MEETING)
def test_images_meet_prompts_in_no_product(graph_path: Any, part: PartName) -> None:
    """TensorRT 8.6 gives wrong rows, or none, where a product broadcasts N against P."""
    graph = onnx.shape_inference.infer_shapes(load(graph_path(part)), strict_mode=True).graph
    first = {
        value.name: value.type.tensor_type.shape.dim[0].dim_param
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.shape.dim
    }
    constant = {value.name for value in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and not constant.intersection(node.input)]
    met = {node.name: {first.get(name) for name in node.input} for node in products}
    assert len([rows for rows in met.values() if rows == {"P"}]) > 2, "the prompts' own"
    assert not {name: rows for name, rows in met.items() if "N" in rows and rows != {"N"}}


@pytest.mark.parametrize("part", PART_NAMES)
def test_nothing_of_this_machine_is_inside(graph_path: Any, part: PartName) -> None:
    path: Path = graph_path(part)
    model = load(path)
    for value in model.graph.initializer:
        value.ClearField("raw_data")  # weights hold every short string
    content = model.SerializeToString()
    for trace in (b"/work", b"site-packages", b"sam3_runtime/", b".py", str(path.parent).encode()):
        assert trace not in content
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["part"] == part
    assert facts["attention"] == "fusable"
    assert json.loads(facts["dims"])["patch"] == 14
    assert {"checkpoint_digest", "resolution", "queries", "torch", "transformers"} <= set(facts)


@pytest.mark.parametrize("part", PART_NAMES)
def test_external_data_is_where_the_contract_says(graph_path: Any, part: PartName) -> None:
    path: Path = graph_path(part)
    assert path.with_name(f"{path.name}.data").exists() == PARTS[part].external_data
    stored = [entry for value in load(path).graph.initializer for entry in value.external_data]
    assert {entry.value for entry in stored if entry.key == "location"} <= {f"{path.name}.data"}
    assert not list(path.parent.glob(".*")), "temporary files are gone"


def test_weights_are_found_by_their_modules_name(graph_path: Any) -> None:
    """What quantisation relies on: every MatMul or Conv with a weight is named after it."""
    graph = load(graph_path("vision-encoder")).graph
    shapes = {value.name: tuple(value.dims) for value in graph.initializer}
    weighted = {
        node.input[1]: node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Conv", "ConvTranspose") and node.input[1] in shapes
    }
    for name, node in weighted.items():
        assert name.endswith(".weight")
        assert node.rpartition("/")[0] == name.removesuffix(".weight")
    for layer in range(8):
        linears = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        assert {f"layers.{layer}.{linear}.weight" for linear in linears} <= set(weighted)
    assert shapes["layers.3.mlp.fc1.weight"] == (128, 512), "stored as the MatMul takes it: [in, out]"
    assert {"patch_embed.weight", "neck.0.proj1.weight", "neck.2.proj2.weight"} <= set(weighted)


@pytest.mark.parametrize("part", PART_NAMES)
def test_another_process_writes_the_same_bytes(graph_path: Any, elsewhere: Callable[..., Path], part: PartName) -> None:
    here, there = graph_path(part), elsewhere("fp32", *PART_NAMES) / f"{part}.onnx"
    assert here.read_bytes() == there.read_bytes()
    if PARTS[part].external_data:
        data = f"{part}.onnx.data"
        assert here.with_name(data).read_bytes() == there.with_name(data).read_bytes()


def test_video_layout_gives_the_same_graph(graph_path: Any, video_checkpoint: Path, tmp_path: Path) -> None:
    lock = checkpoint.lock(str(video_checkpoint))
    export_part("vision-encoder", lock, tmp_path / "vision-encoder.onnx", resolution=SMALL)
    wanted: Path = graph_path("vision-encoder")
    data = "vision-encoder.onnx.data"
    assert (tmp_path / data).read_bytes() == wanted.with_name(data).read_bytes()
    ours, theirs = load(tmp_path / "vision-encoder.onnx"), load(wanted)
    assert ours.graph == theirs.graph


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("vision-encoder", {}, "needs resolution"),
        ("vision-encoder", {"resolution": 100}, "not a multiple of the patch"),
        ("text-encoder", {"resolution": 182}, "does not depend on resolution"),
        ("decoder", {"resolution": 182, "queries": 201}, "the checkpoint has 200"),
        ("text-encoder", {"attention": "flash"}, "attention is 'flash'"),
        ("text-encoder", {"precision": "bf16"}, "precision is 'bf16'"),
    ],
)
def test_mistakes_are_explained(
    demo_lock: CheckpointLock, tmp_path: Path, part: PartName, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_part(part, demo_lock, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())
