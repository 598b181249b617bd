"""The next batch: begun once, and only where it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from sam3_runtime.families.sam3.prefetch import Batch, Prefetch, request_of
from sam3_runtime.families.sam3.prompts import Prompt, PromptError
from tests.projects import photo


class Steps:
    """Makes batches, and notes what is done to them."""

    def __init__(self) -> None:
        self.done: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.done.append(name)
        yield

    def batch(self, images: Sequence[Any]) -> Batch:
        return Batch(images, lambda shown: np.zeros(len(shown)), lambda pixels: {"fpn_feat_0": pixels}, self.stage)


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_each_step_of_a_batch_runs_once_until_it_is_reset(steps: Steps) -> None:
    batch = steps.batch([photo(1), photo(2, 20, 30)])
    assert batch.sizes == [(40, 60), (20, 30)]
    assert batch.features is batch.features
    assert steps.done == ["preprocess", "vision"]
    batch.reset()
    assert len(batch.pixels) == 2
    assert steps.done == ["preprocess", "vision", "preprocess"]


def test_the_next_batch_is_begun_once(steps: Steps) -> None:
    asked: list[bool] = []

    def take(wait: bool) -> list[Any]:
        asked.append(wait)
        return [photo(1)]

    prefetch = Prefetch(take, steps.batch)
    prefetch.preprocess()
    prefetch.encode()
    prefetch.encode()
    assert (asked, steps.done) == ([False], ["preprocess", "vision"])


def test_what_is_not_there_is_asked_for_again(steps: Steps) -> None:
    left = iter([[], [photo(1)]])
    prefetch = Prefetch(lambda _: next(left), steps.batch)
    prefetch.preprocess()
    assert (prefetch.batch, steps.done) == (None, [])
    prefetch.encode()
    assert steps.done == ["preprocess", "vision"]


def test_a_request_has_a_threshold_for_each_prompt() -> None:
    request = request_of(["cat", Prompt("dog")], 0.4, None, None)
    assert (request.prompts, request.thresholds) == ([Prompt("cat"), Prompt("dog")], [0.4, 0.4])
    with request.stage("vision") as nothing:
        assert nothing is None
    with pytest.raises(PromptError, match="1 threshold for 2 prompts\nHint: give one for all prompts"):
        request_of(["cat", "dog"], [0.4], None, None)
