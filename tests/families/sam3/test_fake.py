"""Outputs for tests: they differ between images and prompts, and do not depend on the rest of the batch."""

from __future__ import annotations

import numpy as np

from sam3_runtime.families.sam3.fake import outputs
from sam3_runtime.plan.variants import Variant
from tests.fake_variant import fake_record

VARIANT = Variant((4, 20, 112))


def test_an_image_is_told_by_its_mean_whatever_is_beside_it() -> None:
    images = np.stack([np.full((3, 112, 112), value, np.float32) for value in (0.1, 0.7)])
    record = fake_record("vision-encoder", VARIANT)
    both, alone = outputs(record, {"images": images}), outputs(record, {"images": images[1:]})
    for level in ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2"):
        assert np.array_equal(both[level][1:], alone[level])
        assert not np.array_equal(both[level][0], both[level][1])


def test_a_words_padding_counts_nothing() -> None:
    record = fake_record("text-encoder", VARIANT)
    ids = np.zeros((2, 32), np.int64)
    ids[:, :3], ids[1, 3:] = (0, 40, 1), 9
    mask = (np.arange(32) < 3).astype(np.int64)[None].repeat(2, axis=0)
    found = outputs(record, {"input_ids": ids, "attention_mask": mask})
    assert np.array_equal(found["text_features"][0], found["text_features"][1])
    assert np.array_equal(found["text_mask"], mask.astype(bool))


def test_prompts_shift_the_boxes_and_masks_fill_them() -> None:
    record = fake_record("decoder", VARIANT)
    features = np.stack([np.full((5, 8), value, np.float32) for value in (0.0, 0.3)])
    feeds = {
        "prompt_features": features, "prompt_mask": np.ones((2, 5), bool), "fpn_feat_0": np.zeros((1, 8, 32, 32)),
    }  # fmt: skip
    found = outputs(record, feeds)
    assert found["pred_boxes"].shape == (2, 20, 4)
    assert not np.array_equal(found["pred_boxes"][0], found["pred_boxes"][1])
    side = found["pred_masks"].shape[-1]
    mask, box = found["pred_masks"][0, 0] > 0, found["pred_boxes"][0, 0] * side
    rows, columns = np.nonzero(mask)
    assert len(rows) > 0
    assert columns.min() >= np.floor(box[0])
    assert columns.max() < np.ceil(box[2])
