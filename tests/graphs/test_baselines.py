"""A model timed in its own library, here one that counts: on the CPU, as it is and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sam3_runtime.graphs import baselines
from sam3_runtime.graphs.baselines import Options, measure
from sam3_runtime.records.records import CheckpointLock

SETTINGS = {"warmup": 1, "windows": 2, "rounds": 3, "batches": [1, 2]}
LOCK = CheckpointLock(
    checkpoint="/home/somebody/weights", revision=None, commit=None, digest="5" * 64, dims={}, family="classifier"
)


class Counting:
    attention = "eager"

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device, self.precision, self.compiled = device, precision, ""
        self.answered: list[int] = []
        self.encoded = 0

    def compile(self, backend: str) -> None:
        if backend == "broken":
            raise RuntimeError("no compiler")
        self.compiled = backend

    def preprocess(self, images: Sequence[Any]) -> list[Any]:
        return list(images)

    def encode(self, _: Any) -> None:
        self.encoded += 1

    def answer(self, images: Sequence[Any]) -> None:
        self.answered.append(len(images))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    monkeypatch.setattr(baselines, "IMAGE_SIZE", (4, 6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return []


def measured(made: list[Counting], **options: Any) -> Any:
    def make(device: torch.device, precision: Any) -> Counting:
        made.append(Counting(device, precision))
        return made[-1]

    return measure(LOCK, make, np, resolution=8, settings=SETTINGS, options=Options(**options))


def test_every_batch_is_timed_in_both_ways(made: list[Counting]) -> None:
    found = measured(made, backend="eager")
    assert [(way.name, [run.batch for run in way.runs]) for way in found.ways] == [
        ("numpy", [1, 2]), ("torch.compile", [1, 2]),
    ]  # fmt: skip
    runs = [run for way in found.ways for run in way.runs]
    assert [(run.vision.n, run.end_to_end.n, run.allocated_mib) for run in runs] == [(6, 6, None)] * 4
    assert (made[0].compiled, made[0].precision, found.precision) == ("eager", "float32", "float32")
    # A warm-up and two windows for each; once more for each batch to be compiled.
    assert made[0].answered == [1] * 7 + [2] * 7 + [1, 2] + [1] * 7 + [2] * 7
    assert made[0].encoded == 4 * 7


def test_it_names_neither_a_path_nor_a_gpu(made: list[Counting]) -> None:
    found = measured(made, compiled=False)
    assert (found.checkpoint, found.driver, found.clocks, len(found.ways)) == ("weights", None, None, 1)


def test_what_fails_is_named_and_hides_nothing_else(made: list[Counting], capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(made, backend="broken")
    assert [(way.failed, len(way.runs)) for way in found.ways] == [(None, 2), ("RuntimeError", 0)]
    assert "torch.compile failed: no compiler" in capsys.readouterr().out
