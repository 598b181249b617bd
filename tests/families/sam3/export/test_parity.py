"""Every output of every graph against transformers' ``Sam3Model``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from sam3_runtime.families.sam3.export import vision
from sam3_runtime.families.sam3.export.graph import export_part
from sam3_runtime.families.sam3.export.parity import (
    Graph,
    compare_decoder,
    compare_geometry,
    compare_text,
    compare_vision,
    document,
    largest,
)
from sam3_runtime.families.sam3.export.scene import decoder_feeds
from tests.conftest import SMALL

CLOSE = 1e-4
FORMS = ("fusable", "plain")


def softmaxes(path: Path) -> int:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node].count("Softmax")


def assert_close(differences: dict[str, float], limit: float = CLOSE) -> None:
    assert differences
    assert max(differences.values()) <= limit, differences


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("resolution", [336, 224, 280, SMALL])
def test_vision_encoder(graph: Any, scene: Any, resolution: int, rows: int) -> None:
    assert_close(compare_vision(scene(resolution), graph("vision-encoder", resolution), rows))


@pytest.mark.parametrize("rows", [1, 3])
def test_plain_vision_encoder(graph: Any, scene: Any, rows: int) -> None:
    assert_close(compare_vision(scene(SMALL), graph("vision-encoder", attention="plain"), rows))


def test_heads_that_attend_in_parts(
    demo_lock: Any, graph_path: Any, scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1008 the scores of all heads are more than TensorRT 8.6 can address: the same is forced here."""
    whole = softmaxes(graph_path("vision-encoder"))
    monkeypatch.setattr(vision, "_ADDRESSABLE", 2 * 8 * 169 * 169)  # two heads of a global layer of 13 x 13
    path = tmp_path / "vision-encoder.onnx"
    export_part("vision-encoder", demo_lock, path, resolution=SMALL, attention="fusable", precision="fp32")
    assert softmaxes(path) > whole
    assert_close(compare_vision(scene(SMALL), Graph(path), 3))


@pytest.mark.parametrize(("resolution", "expected"), [(336, 1), (672, 1), (840, 2), (1008, 2), (1344, 8)])
def test_scores_of_eight_images_can_be_addressed(resolution: int, expected: int) -> None:
    grid = resolution // 14
    tokens = (-(-grid // 24) * 24) ** 2
    parts = vision.parts_of(16, tokens * grid**2)
    assert parts == expected
    assert 8 * 16 // parts * tokens * grid**2 < 2**31


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_text_encoder(graph: Any, scene: Any, form: str, rows: int) -> None:
    assert_close(compare_text(scene(SMALL), graph("text-encoder", attention=form), rows))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("boxes", [1, 7])
@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(("resolution", "form"), [(SMALL, "fusable"), (224, "plain")])
def test_geometry_encoder(
    graph: Any, scene: Any, resolution: int, form: str, rows: int, boxes: int, shared: bool
) -> None:
    found = graph("geometry-encoder", resolution, attention=form)
    assert_close(compare_geometry(scene(resolution), found, rows, boxes, shared))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("boxes", [0, 1, 7])
@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(("resolution", "form"), [(SMALL, "fusable"), (224, "plain")])
def test_decoder(graph: Any, scene: Any, resolution: int, form: str, rows: int, boxes: int, shared: bool) -> None:
    found = graph("decoder", resolution, attention=form)
    assert_close(compare_decoder(scene(resolution), found, rows, boxes, shared))


def test_fewer_queries_are_the_best_of_all(graph: Any, scene: Any) -> None:
    prompt, mask = scene(SMALL).prompt(3, 7, slice(0, 1))
    feeds = decoder_feeds(scene(SMALL), prompt, mask, slice(0, 1))
    few, every = graph("decoder", queries=50)(feeds), graph("decoder", queries=200)(feeds)
    assert few["query_index"].shape == (3, 50)
    assert few["query_index"].dtype == np.int64
    for row in range(3):
        assert sorted(every["query_index"][row]) == list(range(200))
        place = np.argsort(every["query_index"][row])[few["query_index"][row]]
        for name in ("pred_masks", "pred_boxes", "pred_logits"):
            assert largest(few[name][row], every[name][row][place]) <= 1e-5, name
        assert (np.diff(few["pred_logits"][row]) <= 0).all()
        assert few["pred_logits"][row].min() >= np.sort(every["pred_logits"][row])[-50] - 1e-5


def test_the_same_image_in_every_slot_gives_the_same_answer(graph: Any, scene: Any) -> None:
    images = scene(SMALL).images[:1].expand(3, -1, -1, -1)
    features = graph("vision-encoder")({"images": images})
    for name in ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2"):
        assert largest(features[name][1:], np.repeat(features[name][:1], 2, axis=0)) <= 1e-5, name
    prompt, mask = scene(SMALL).prompt(1, 0, slice(0, 1))
    levels = {name: torch.from_numpy(value) for name, value in features.items()}
    feeds = levels | {"prompt_features": prompt.expand(3, -1, -1), "prompt_mask": mask.expand(3, -1)}
    found = graph("decoder", queries=200)(feeds)
    by_query = [np.argsort(found["query_index"][row]) for row in range(3)]
    for name in ("pred_masks", "pred_boxes", "pred_logits"):
        ordered = [found[name][row][by_query[row]] for row in range(3)]
        assert max(largest(ordered[0], other) for other in ordered) <= 1e-5, name


def test_a_prompts_answer_does_not_depend_on_the_others(graph: Any, scene: Any) -> None:
    prompt, mask = scene(SMALL).prompt(3, 7, slice(0, 1))
    found = graph("decoder", queries=200)
    together = found(decoder_feeds(scene(SMALL), prompt, mask, slice(0, 1)))
    for row in range(3):
        alone = found(decoder_feeds(scene(SMALL), prompt[row : row + 1], mask[row : row + 1], slice(0, 1)))
        assert largest(alone["presence_logits"][0], together["presence_logits"][row]) <= 1e-5
        a, b = np.argsort(alone["query_index"][0]), np.argsort(together["query_index"][row])
        for name in ("pred_masks", "pred_boxes", "pred_logits"):
            assert largest(alone[name][0][a], together[name][row][b]) <= 1e-5, name


def test_padding_changes_nothing(graph: Any, scene: Any) -> None:
    """The result of a prompt does not depend on masked tokens after it."""
    prompt, mask = scene(SMALL).prompt(1, 1, slice(0, 1))
    junk = torch.full((1, 5, prompt.shape[2]), 3.0)
    found = graph("decoder", queries=200)
    padded = torch.cat([prompt, junk], dim=1), torch.cat([mask, torch.zeros(1, 5, dtype=torch.bool)], dim=1)
    short, long = (found(decoder_feeds(scene(SMALL), *one, slice(0, 1))) for one in ((prompt, mask), padded))
    a, b = np.argsort(short["query_index"][0]), np.argsort(long["query_index"][0])
    for name in ("pred_masks", "pred_boxes", "pred_logits"):
        assert largest(short[name][0][a], long[name][0][b]) <= 1e-5, name


def test_the_document_is_made_from_the_committed_results(project: Path) -> None:
    results = json.loads((project / "docs/results/export.json").read_bytes())
    assert (project / "docs/parity.md").read_text() == document(results)


def test_box_sampling_is_roi_align() -> None:
    """In float64, with boxes of one pixel, at the edges, over them and larger than the map."""
    from torchvision.ops import roi_align

    from sam3_runtime.families.sam3.export.geometry import BoxSampling

    grid, bins = 20, 7
    seeded = torch.Generator().manual_seed(1)
    centre = torch.rand(200, 2, generator=seeded, dtype=torch.float64) * 1.2 - 0.1
    half = torch.rand(200, 2, generator=seeded, dtype=torch.float64) * 0.6
    half[:20] *= 0.01
    low, high = (centre - half) * grid, (centre + half) * grid
    features = torch.randn(1, 5, grid, grid, generator=seeded, dtype=torch.float64)
    wanted = roi_align(features, [torch.cat([low, high], dim=1)], bins)
    sampling = BoxSampling(grid, bins).double()
    down, across = (sampling(low[None, :, axis], high[None, :, axis])[0] for axis in (1, 0))
    pooled = torch.einsum("kyh,chw,kxw->kcyx", down, features[0], across)
    assert (pooled - wanted).abs().max() < 1e-12
