"""Float16 graphs of the small checkpoint: how close they are to float32, and what their islands gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from sam3_runtime.families.sam3.export import graph as export_graph
from sam3_runtime.families.sam3.export.islands import ISLANDS
from sam3_runtime.families.sam3.export.losses import Chain, by_query, loss, photographs, rounded_losses, seeded_feeds
from sam3_runtime.families.sam3.export.rounded import RoundedGraph
from sam3_runtime.families.sam3.export.scene import Scene, decoder_feeds
from sam3_runtime.families.sam3.parts import PART_NAMES, PartName
from sam3_runtime.records.records import CheckpointLock
from tests.conftest import SMALL


def typed_path(graph_path: Any, part: PartName) -> Path:
    path: Path = graph_path(part, queries=200, precision="fp16")
    return path


def test_float16_is_close_and_far_from_overflow(demo_lock: CheckpointLock, graph_path: Any) -> None:
    """Photographs through all four parts, each on the outputs of those before."""
    graphs = {part: typed_path(graph_path, part) for part in PART_NAMES}
    chain = Chain(Scene.of(demo_lock, SMALL, photographs(SMALL, 3)), graphs)
    losses, detections = chain.run()
    assert set(losses) >= {"fpn_feat_0", "fpn_pos_2", "text_features", "geometry_features", "pred_masks", "pred_boxes"}
    assert max(one["cosine_loss"] for one in losses.values()) <= 1e-3, losses
    assert losses["pred_boxes"]["error"] < 4e-3
    assert max(value for _, value in chain.largest().values()) < 6e4
    # It finds nothing in photographs, and scores may lie closer together than float16 can tell apart.
    assert all(one["same"] for one in detections if one["gap"] > 5e-4), detections
    assert any(one["same"] for one in detections)


def test_coordinates_need_their_island(demo_lock: CheckpointLock, tmp_path: Path) -> None:
    feeds = seeded_feeds(demo_lock, "geometry-encoder", 336)
    with torch.no_grad():
        module = export_graph.build_module("geometry-encoder", demo_lock, resolution=336)
        wanted = {"geometry_features": module(*feeds.values())[0].numpy()}
    errors = [
        rounded_losses(demo_lock, "geometry-encoder", 336, feeds, wanted, islands, tmp_path)["geometry_features"][
            "error"
        ]
        for islands in (set(ISLANDS), set(ISLANDS) - {"BoxSides"})
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("part", PART_NAMES)
def test_onnx_runtime_runs_it(graph_path: Any, scene: Any, part: PartName) -> None:
    """Its CPU kernels do not round between the nodes, but the results are nearly the same."""
    at, path = scene(SMALL), typed_path(graph_path, part)
    prompt, mask = at.prompt(2, 7, slice(0, 1))
    corners, labels = at.boxes(7)
    feeds = {
        "vision-encoder": {"images": at.images[:2]},
        "text-encoder": dict(at.text),
        "geometry-encoder": {
            "input_boxes": corners,
            "input_boxes_labels": labels,
            "fpn_feat_2": at.features[2],
            "fpn_pos_2": at.position,
        },
        "decoder": decoder_feeds(at, prompt, mask, slice(0, 1)),
    }[part]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    takes = {value.name: np.float16 if value.type == "tensor(float16)" else None for value in session.get_inputs()}
    ours = {
        name: np.ascontiguousarray(value.numpy().astype(takes[name] or value.numpy().dtype))
        for name, value in feeds.items()
    }
    names = [value.name for value in session.get_outputs()]
    got, rounded = dict(zip(names, session.run(None, ours), strict=True)), RoundedGraph(path)(feeds)
    assert list(rounded) == names
    if part == "decoder":
        assert got["pred_boxes"].dtype == np.float32
        got, rounded = by_query(got), by_query(rounded)
    for name in got:
        assert got[name].dtype == rounded[name].dtype
        assert loss(got[name], rounded[name])["cosine_loss"] < 1e-4, name
