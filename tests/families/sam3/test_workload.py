"""The benchmark's workload: rounds, and each part alone."""

from __future__ import annotations

import pytest

from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.workload import Workload
from tests.projects import photo

SETTINGS = {"prompts": ["cat", "dog", "cup"], "masks": 2}


def runs(pipeline: Pipeline) -> dict[str, int]:
    return {part: engine.calls for part, engine in pipeline.engines.items() if isinstance(engine, FakeEngine)}


def test_a_round_counts_what_is_detected_and_encodes_no_words(fake_pipeline: Pipeline) -> None:
    workload, images = Workload(fake_pipeline, SETTINGS), [photo(1), photo(2)]
    workload.warm_up(images)
    before = runs(fake_pipeline)
    wanted = fake_pipeline.detect(images, SETTINGS["prompts"])
    assert workload.round(images) == sum(len(one) for row in wanted for one in row) > 0
    assert runs(fake_pipeline)["text-encoder"] == before["text-encoder"]
    assert workload.prompts == 3


def test_weights_that_detect_nothing_keep_their_best(fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam3_runtime.families.sam3.workload.THRESHOLD", 2.0)
    workload, images = Workload(fake_pipeline, SETTINGS), [photo(1), photo(2)]
    workload.warm_up(images)
    assert workload.round(images) == 2 * 3 * SETTINGS["masks"]


def test_parts_are_called_alone_at_one_and_at_the_batch(fake_pipeline: Pipeline) -> None:
    found = []
    for one in Workload(fake_pipeline, SETTINGS).parts([photo(1)]):
        before = runs(fake_pipeline)
        one.call()
        after = runs(fake_pipeline)
        assert [part for part in after if after[part] != before[part]] in ([one.part], [])
        found.append((one.part, one.images, one.prompts))
    assert found == [
        ("text-encoder", 0, 1), ("text-encoder", 0, 4), ("vision-encoder", 1, 0), ("vision-encoder", 4, 0),
        ("geometry-encoder", 1, 1), ("geometry-encoder", 1, 4),
        ("decoder", 1, 1), ("decoder", 1, 4), ("decoder", 4, 4),
    ]  # fmt: skip
