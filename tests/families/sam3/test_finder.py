"""Engines as a finder: other prompts for each image, in as few calls as possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_runtime import load
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.evaluation.data_set import ConceptData
from sam3_runtime.evaluation.questions import FLOOR, answer_all, questions_of
from sam3_runtime.families.sam3.finder import finder_of


@pytest.mark.parametrize("kind", ["words", "boxes"])
def test_answers_are_those_of_one_picture_and_prompt_at_a_time(
    fake_variant: Path, concepts: ConceptData, kind: Any
) -> None:
    questions = questions_of(concepts, kind)
    with load(fake_variant) as pipeline:
        answers = list(answer_all(questions, finder_of(pipeline, concepts.phrases), pipeline.batch))
        assert len(answers) == len(questions)
        for (image, asked), found in zip(questions, answers, strict=True):
            assert [one.pair for one in found] == [(image.id, category) for category in asked]
            for (category, prompt), answer in zip(asked.items(), found, strict=True):
                alone = pipeline.detect([image.read()], [prompt], threshold=FLOOR)[0][0]
                assert len(alone) > 0, category
                np.testing.assert_array_equal(answer.scores, np.sort(alone.scores)[::-1])
                np.testing.assert_array_equal(answer.boxes, alone.boxes)
                assert answer.masks == alone.rle()


def test_pictures_go_in_batches_and_prompts_together(fake_variant: Path, concepts: ConceptData) -> None:
    with load(fake_variant) as pipeline:
        list(answer_all(questions_of(concepts), finder_of(pipeline, concepts.phrases), pipeline.batch))
        counts = {part: engine.calls for part, engine in pipeline.engines.items() if isinstance(engine, FakeEngine)}
    # Six pictures in batches of four, four phrases each, encoded once.
    assert counts == {"vision-encoder": 2, "text-encoder": 1, "geometry-encoder": 0, "decoder": 6}
