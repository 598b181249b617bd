"""What the gate measures with: overlaps, and the detections that both sides find."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.families.sam3.gate import Comparison, check_reference, judged, mask_iou
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.settings import Limits
from tests.measure.test_verify import reference_of


def test_the_iou_of_masks_is_row_by_row() -> None:
    one = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]], bool)
    other = np.array([[[0, 1, 1, 0]], [[0, 1, 0, 0]], [[0, 0, 0, 0]]], bool)
    assert mask_iou(one, other).tolist() == [pytest.approx(1 / 3), 0, 1]


def test_agreement_is_a_share_of_what_either_finds(fake_pipeline: Pipeline) -> None:
    made = Comparison(pipeline=fake_pipeline, reference=reference_of(fake_pipeline))
    assert made.agreement == 0
    made.counts = {
        "cat": Counter(found=3, expected=4, agreed=3),
        "dog": Counter(found=1, expected=0, agreed=0),
    }  # fmt: skip
    assert made.agreement == pytest.approx(3 / 5)
    assert made.by_prompt["cat"].agreed == 3


def test_engines_agree_with_what_they_said(fake_pipeline: Pipeline) -> None:
    found = judged(fake_pipeline, reference_of(fake_pipeline), Limits().model_dump())
    assert len(found.checks) > 5
    # The fake position table is zero, which has no cosine with anything.
    assert [check.name for check in found.checks if not check.passed] == ["fpn_pos_2 cosine"]


def test_a_reference_of_another_checkpoint_is_refused(fake_pipeline: Pipeline) -> None:
    wanted = reference_of(fake_pipeline)
    check_reference(wanted, fake_pipeline.config)
    with pytest.raises(RecordError, match="another checkpoint"):
        check_reference(replace(wanted, checkpoint_digest="1" * 64), fake_pipeline.config)
