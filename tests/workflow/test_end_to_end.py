"""Picture and words in, boxes, scores and masks out: the built engines say what transformers says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.scenes import HELD_OUT, Scene, Thing, scene
from sam3_runtime import Prompt, extract, load, open_detector, read_project
from sam3_runtime.families.sam3.gate import judged, mask_iou
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.families.sam3.reference import read_reference
from sam3_runtime.families.sam3.settings import Limits
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.media.sinks import write_image
from tests.workflow.conftest import WorkFolder

RESOLUTION = 224
SCENES = (3, 7, 19)
THRESHOLD = 0.3


@pytest.fixture(scope="module")
def reference(demo_checkpoint: Path) -> Any:
    """transformers' model and processor at the variant's resolution."""
    from transformers import Sam3Config, Sam3Model, Sam3Processor

    config = Sam3Config.from_pretrained(demo_checkpoint)
    config.vision_config.backbone_config.image_size = RESOLUTION
    model = Sam3Model.from_pretrained(demo_checkpoint, config=config).eval()
    processor = Sam3Processor.from_pretrained(demo_checkpoint)
    processor.image_processor.size = {"height": RESOLUTION, "width": RESOLUTION}
    return model, processor


def ask_transformers(reference: Any, image: np.ndarray[Any, Any], prompt: Prompt) -> Any:
    import torch

    model, processor = reference
    boxes = {}
    if prompt.boxes:
        boxes = {"input_boxes": [[list(box) for box in prompt.boxes]], "input_boxes_labels": [list(prompt.labels)]}
    inputs = processor(images=image, text=prompt.text, return_tensors="pt", **boxes)
    with torch.no_grad():
        return model(**inputs)


def shown(number: int) -> Scene:
    """A held-out scene, wider than high and not of the engines' size."""
    return scene(HELD_OUT + number, (360, 480))


def box(thing: Thing) -> tuple[float, float, float, float]:
    left, top, right, bottom = thing.box.tolist()
    return left, top, right, bottom


def prompts(things: Sequence[Thing]) -> list[Prompt]:
    first, last = things[0], things[-1]
    return [
        Prompt(first.shape),
        Prompt(f"{first.colour} object"),
        Prompt(None, boxes=(box(first),), labels=(1,)),
        Prompt(first.shape, boxes=(box(first), box(last)), labels=(1, 0)),
    ]


@pytest.mark.parametrize("number", SCENES)
@pytest.mark.parametrize("kind", range(4), ids=["words", "two words", "a box", "words and boxes"])
def test_detections_are_those_of_transformers(built_once: WorkFolder, reference: Any, number: int, kind: int) -> None:
    image, things = shown(number).image, shown(number).things
    prompt = prompts(things)[kind]
    wanted = answer(reference, ask_transformers(reference, image, prompt), image)
    with load(built_once.path / "engines/b2_q50_r224") as pipeline:
        assert pipeline.status == "passed"
        found = pipeline.detect([image], [prompt], threshold=THRESHOLD)[0][0]
    compare(found, wanted)


def answer(reference: Any, outputs: Any, image: np.ndarray[Any, Any]) -> Any:
    """What transformers finds above the threshold, near which nothing may lie."""
    scores = (outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid())[0]
    assert (scores - THRESHOLD).abs().min() > 1e-3
    processor = reference[1].image_processor
    found = processor.post_process_instance_segmentation(outputs, threshold=THRESHOLD, target_sizes=[image.shape[:2]])
    assert len(found[0]["scores"]), "nothing found says nothing"
    return found[0]


@pytest.mark.parametrize("words", [None, "heart"], ids=["boxes", "words and boxes"])
def test_boxes_on_a_reference_image_say_what_they_say_in_transformers(
    built_once: WorkFolder, reference: Any, words: str | None, tmp_path: Path
) -> None:
    """transformers has no such call: its geometry encoder reads one image, and its decoder searches another."""
    example, searched = shown(10), shown(19).image  # each has an orange heart
    prompt = Prompt(words, boxes=(box(example.things[4]), box(example.things[0])), labels=(1, 0))
    encoder, said = reference[0].geometry_encoder, []
    with encoder.register_forward_hook(lambda *call: said.append(call[-1])):
        ask_transformers(reference, example.image, prompt)
    with encoder.register_forward_hook(lambda *_: said[0]):
        wanted = answer(reference, ask_transformers(reference, searched, prompt), searched)
    write_image(tmp_path / "shown.png", example.image)
    examples = {"image": "shown.png", "positive": [prompt.boxes[0]], "negative": [prompt.boxes[1]]}
    section = {"name": "thing", "threshold": THRESHOLD, "examples": examples} | ({"words": words} if words else {})
    (tmp_path / "shop.yaml").write_text(json.dumps({"classes": [section]}))  # JSON is YAML
    directory = built_once.path / "engines/b2_q50_r224"
    with load(directory) as pipeline:
        extract(pipeline, read_project(tmp_path / "shop.yaml")).save(tmp_path / "shop.npz")
    with open_detector(directory, tmp_path / "shop.npz") as detector:
        compare(detector.detect([searched])[0][0], wanted)


def compare(found: Detections, wanted: Any) -> None:
    """Same detections (matched by score order, which the query index breaks ties in), boxes and masks."""
    order = np.argsort(-wanted["scores"].numpy(), kind="stable")
    assert len(found) == len(order)
    np.testing.assert_allclose(found.scores, wanted["scores"].numpy()[order], atol=1e-4)
    assert np.abs(found.boxes - wanted["boxes"].numpy()[order]).max() <= 0.5
    assert mask_iou(found.masks, wanted["masks"].numpy()[order].astype(bool)).min() >= 0.995


def test_many_pictures_and_prompts_are_those_of_one_at_a_time(built_once: WorkFolder) -> None:
    images = [shown(number).image for number in SCENES]
    asked = ["heart", "orange object", "circle", "person"]
    with load(built_once.path / "engines/b2_q50_r224") as pipeline:
        together = pipeline.detect(images, asked, top=2)
        for image, row in zip(images, together, strict=True):
            for prompt, found in zip(asked, row, strict=True):
                alone = pipeline.detect([image], [prompt], top=2)[0][0]
                np.testing.assert_array_equal(found.query_index, alone.query_index)
                np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.05)
                assert mask_iou(found.masks, alone.masks).min() >= 0.995


@pytest.mark.parametrize(
    ("part", "output", "noticed"),
    [("geometry-encoder", "geometry_features", "geometry cosine"), ("decoder", "pred_logits", "logit error")],
)
def test_a_row_that_is_wrong_beside_others_is_noticed(
    built_once: WorkFolder, monkeypatch: pytest.MonkeyPatch, part: PartName, output: str, noticed: str
) -> None:
    """Several prompts on one image: what is right alone may be wrong there."""
    reference = read_reference(built_once.path / f"reference/r{RESOLUTION}.safetensors")
    with load(built_once.path / "engines/b2_q50_r224") as pipeline:
        right = pipeline.engines[part].infer

        def infer(feeds: Mapping[str, Any]) -> dict[str, Any]:
            said = {name: np.array(array) for name, array in right(feeds).items()}
            if feeds["fpn_feat_2"].shape[0] == 1:
                said[output][1:] += 1
            return said

        limits = Limits().model_dump()
        assert all(check.passed for check in judged(pipeline, reference, limits).checks)
        monkeypatch.setattr(pipeline.engines[part], "infer", infer)
        checks = judged(pipeline, reference, limits).checks
    assert noticed in {check.name for check in checks if not check.passed}
