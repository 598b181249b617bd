"""timm and torch.compile on a small checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam3_runtime.families.classifier.export.baselines import Contender, measure_baseline
from sam3_runtime.families.classifier.export.reference import logits_of
from sam3_runtime.graphs import baselines
from sam3_runtime.graphs.baselines import Options
from sam3_runtime.records.measurements import Baseline
from sam3_runtime.records.records import CheckpointLock

SETTINGS: dict[str, Any] = {"warmup": 1, "windows": 2, "rounds": 1, "batches": [1, 3]}


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "IMAGE_SIZE", (30, 40))


def test_both_ways_at_every_batch(lock: CheckpointLock, folder: Path, tmp_path: Path) -> None:
    """Compiled with torch's own tracer alone."""
    locked = lock.model_copy(update={"checkpoint": "work/checkpoint"})
    found = measure_baseline(locked, str(folder), 96, SETTINGS, options=Options(backend="eager"))
    assert [(way.name, way.failed) for way in found.ways] == [("timm", None), ("torch.compile", None)]
    for way in found.ways:
        assert [run.batch for run in way.runs] == [1, 3]
        assert all(run.vision.n == run.end_to_end.n == 2 for run in way.runs)
    assert [way.compile_seconds is None for way in found.ways] == [True, False]
    assert (found.precision, found.checkpoint) == ("float32", "work/checkpoint")
    assert set(found.libraries) == {"torch", "timm"}
    found.write(tmp_path / "r96.json")
    assert str(folder) not in (tmp_path / "r96.json").read_text()
    assert Baseline.read(tmp_path / "r96.json") == found


@torch.no_grad()
def test_the_round_answers_as_the_reference(lock: CheckpointLock, photos: dict[str, np.ndarray]) -> None:
    images = list(photos.values())
    scores, classes = Contender(lock, 96, torch.device("cpu"), "float32").answer(images)
    wanted = torch.from_numpy(logits_of(lock, 96, images)).softmax(dim=1).topk(5, dim=1)
    assert torch.equal(classes, wanted.indices)
    torch.testing.assert_close(scores, wanted.values)


def test_a_compiler_that_fails_is_said(lock: CheckpointLock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(Contender, "compile", fail)
    found = measure_baseline(lock, str(folder), 96, SETTINGS | {"batches": [1]})
    assert [way.failed for way in found.ways] == [None, "RuntimeError"]
