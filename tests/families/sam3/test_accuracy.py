"""The loss of AP against the reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.families.sam3.accuracy import losses, measure_pipeline
from sam3_runtime.families.sam3.pipeline import Pipeline


def reached(box: float | None, mask: float | None) -> Any:
    return SimpleNamespace(box=SimpleNamespace(ap=box), mask=None if mask is None else SimpleNamespace(ap=mask))


def test_each_kind_that_the_reference_has_is_checked() -> None:
    box, mask = losses(reached(0.50, 0.37), reached(0.51, 0.40), 0.02)
    assert (box.name, box.value, box.passed) == ("box AP loss", pytest.approx(0.01), True)
    assert (mask.name, mask.value, mask.passed) == ("mask AP loss", pytest.approx(0.03), False)


def test_without_masks_there_is_no_check_of_masks() -> None:
    assert [check.name for check in losses(reached(0.5, None), reached(0.5, None), 0.02)] == ["box AP loss"]
    assert list(losses(reached(0.5, None), reached(None, None), 0.02)) == []


def test_an_accuracy_that_is_not_there_is_nought() -> None:
    box, mask = losses(reached(None, None), reached(0.5, 0.4), 0.02)
    assert (box.value, mask.value) == (0.5, 0.4)


def test_a_reference_of_another_checkpoint_is_refused(fake_pipeline: Pipeline) -> None:
    other: Any = SimpleNamespace(checkpoint_digest="1" * 64, resolution=112)
    with pytest.raises(RecordError, match=r"of another checkpoint .*\nHint: run snakemake --force reference/r112_acc"):
        measure_pipeline(fake_pipeline, other)
