"""The demo's trained checkpoint, exported and built, finds what is in held-out scenes, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from demo.scenes import HELD_OUT, Scene, Thing, phrases_of, scene
from sam3_runtime import Prompt, load
from sam3_runtime.families.sam3.gate import mask_iou
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.imaging.postprocess import Detections
from tests.workflow.conftest import WorkFolder

pytest.importorskip("transformers")

# Held-out scene, what it is asked, and how many things answer to that. At 224 it sees less than at 336: these are clear
# to it there, so that no other processor or release moves them across a threshold.
WORDS = [
    (0, "red object", 1),
    (0, "yellow cross", 0),
    (6, "circle", 2),
    (6, "red ring", 0),
    (7, "purple ring", 1),
    (8, "purple cross", 0),
    (9, "yellow ring", 1),
    (16, "cross", 0),
    (18, "heart", 1),
    (19, "orange object", 2),
    (19, "orange heart", 2),
]
# Held-out scene, the thing whose box is the example, and how many things are like it.
EXAMPLES = [(6, 1, 1), (7, 0, 1), (14, 1, 1), (19, 0, 2)]
THRESHOLD = 0.5
LEAST_IOU = 0.8


@pytest.fixture(scope="module")
def pipeline(built_once: WorkFolder) -> Iterator[Pipeline]:
    with load(built_once.path / "engines/b2_q50_r224") as opened:
        assert opened.status == "passed"
        yield opened


def things_that_answer(shown: Scene, phrase: str) -> list[Thing]:
    return [thing for thing in shown.things if phrase in phrases_of(thing.shape, thing.colour)]


def check(found: Detections, wanted: Sequence[Thing]) -> None:
    """One detection for each thing, and none besides."""
    assert len(found) == len(wanted)
    if wanted:
        true = np.stack([thing.mask for thing in wanted])
        overlaps = np.stack([mask_iou(np.broadcast_to(mask, true.shape), true) for mask in found.masks])
        assert sorted(overlaps.argmax(1).tolist()) == list(range(len(wanted)))
        assert overlaps.max(1).min() >= LEAST_IOU


@pytest.mark.parametrize(("number", "phrase", "count"), WORDS)
def test_words_find_what_they_name(pipeline: Pipeline, number: int, phrase: str, count: int) -> None:
    shown = scene(HELD_OUT + number)
    wanted = things_that_answer(shown, phrase)
    assert len(wanted) == count
    check(pipeline.detect([shown.image], [phrase], threshold=THRESHOLD)[0][0], wanted)


@pytest.mark.parametrize(("number", "place", "count"), EXAMPLES)
def test_an_example_box_finds_its_like(pipeline: Pipeline, number: int, place: int, count: int) -> None:
    shown = scene(HELD_OUT + number)
    thing = shown.things[place]
    wanted = things_that_answer(shown, f"{thing.colour} {thing.shape}")
    assert len(wanted) == count
    prompt = Prompt(None, boxes=(tuple(thing.box.tolist()),), labels=(1,))
    check(pipeline.detect([shown.image], [prompt], threshold=THRESHOLD)[0][0], wanted)
