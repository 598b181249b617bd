"""The float16 graphs: types, islands, and what they lose where every result is rounded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.sam3.export import graph as export_graph
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, PartName
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.records.records import CheckpointLock

REPEATED: tuple[PartName, ...] = ("vision-encoder", "geometry-encoder")
WIDE, NARROW = TensorProto.FLOAT, TensorProto.FLOAT16
TYPES = {"float": NARROW, "float32": WIDE, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
ISLANDS_OF = {"geometry-encoder": {"BoxSides", "BoxSampling"}, "decoder": {"BoxCorners", "BoxRefinement"}}


def facts_of(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def typed_path(graph_path: Any, part: PartName) -> Path:
    path: Path = graph_path(part, queries=200, precision="fp16")
    return path


def typed_model(graph_path: Any, part: PartName) -> Any:
    return onnx.shape_inference.infer_shapes(onnx.load(str(typed_path(graph_path, part))), strict_mode=True)


@pytest.mark.parametrize("part", PART_NAMES)
def test_interface_has_the_contracts_types(graph_path: Any, part: PartName) -> None:
    graph = typed_model(graph_path, part).graph
    for values, tensors in ((graph.input, PARTS[part].inputs), (graph.output, PARTS[part].outputs)):
        assert [value.name for value in values] == [tensor.name for tensor in tensors]
        assert [value.type.tensor_type.elem_type for value in values] == [TYPES[tensor.dtype] for tensor in tensors]


@pytest.mark.parametrize("part", PART_NAMES)
def test_only_islands_are_float32(graph_path: Any, part: PartName) -> None:
    """Every float32 value comes from an island, is cast for one, or is a constant that only islands read."""
    model = typed_model(graph_path, part)
    islands: dict[str, list[str]] = json.loads(facts_of(model)["islands"])
    assert set(islands) == ISLANDS_OF.get(part, set())
    inside = {name for names in islands.values() for name in names}
    nodes = {node.name: node for node in model.graph.node}
    assert inside <= set(nodes)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type == WIDE}
    for node in model.graph.node:
        readers = [user for user in model.graph.node if set(node.output) & set(user.input)]
        for name in node.output:
            if types.get(name) == WIDE and node.name not in inside:
                assert node.op_type == "Cast", node.name
                assert {user.name for user in readers} <= inside
        if constants & set(node.input):
            assert node.name in inside or node.op_type == "Resize", node.name  # its scales are float32 by definition
        if node.name in inside and node.op_type != "Cast":
            floats = {types[name] for name in (*node.input, *node.output) if types.get(name) in (WIDE, NARROW)}
            assert floats <= {WIDE}, node.name


@pytest.mark.parametrize("part", PART_NAMES)
def test_same_nodes_as_in_float32_but_for_the_casts(graph_path: Any, part: PartName) -> None:
    wide, narrow = (
        onnx.load(str(graph_path(part, queries=200, precision=name)), load_external_data=False)
        for name in ("fp32", "fp16")
    )
    kinds = [Counter(node.op_type for node in model.graph.node if node.op_type != "Cast") for model in (wide, narrow)]
    assert kinds[0] == kinds[1]
    assert [(entry.domain, entry.version) for entry in narrow.opset_import] == [("", 17)]
    assert "precision" not in facts_of(wide)
    path = typed_path(graph_path, part)
    assert read_graph(path).precision == "fp16"
    if PARTS[part].external_data:
        data = f"{part}.onnx.data"
        ratio = path.with_name(data).stat().st_size / graph_path(part).with_name(data).stat().st_size
        assert 0.49 < ratio < 0.52


@pytest.mark.parametrize("part", REPEATED)
def test_another_process_writes_the_same_bytes(graph_path: Any, elsewhere: Any, part: PartName) -> None:
    here, there = typed_path(graph_path, part), elsewhere("fp16", *REPEATED) / f"{part}.onnx"
    assert here.read_bytes() == there.read_bytes()
    if PARTS[part].external_data:
        data = f"{part}.onnx.data"
        assert here.with_name(data).read_bytes() == there.with_name(data).read_bytes()


def test_a_weight_that_float16_cannot_hold_is_refused(
    demo_lock: CheckpointLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any, **__: Any) -> Any:
        module: Any = made(*_, **__)
        module.projection.bias.data[0] = 1e6
        return module

    made = export_graph.build_module
    monkeypatch.setattr(export_graph, "build_module", build)
    with pytest.raises(
        ExportError, match=r"projection\.bias of the text-encoder reaches 1e\+06[\s\S]*text-encoder: fp32"
    ):
        export_graph.export_part("text-encoder", demo_lock, tmp_path / "text-encoder.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())
