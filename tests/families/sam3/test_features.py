"""Decoder calls: as few as possible, each with at most as many rows as the engine takes."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.families.sam3.features import Embedding, concatenate, decoder_calls, features_of, prompt_rows


def embedding(length: int, value: float = 1.0, dtype: str = "float32") -> Embedding:
    return Embedding(np.full((length, 4), value, dtype), np.ones(length, bool))


def test_text_comes_first_and_decides_the_type() -> None:
    both = concatenate(embedding(2, 1, "float16"), embedding(3, 2))
    assert both.features.dtype == np.float16
    assert both.features[:, 0].tolist() == [1, 1, 2, 2, 2]
    assert both.mask.tolist() == [True] * 5


def test_rows_are_padded_to_the_longest() -> None:
    rows = prompt_rows([embedding(1), embedding(3)])
    assert rows["prompt_features"].shape == (2, 3, 4)
    assert rows["prompt_mask"].tolist() == [[True, False, False], [True] * 3]
    assert not rows["prompt_features"][0, 1:].any()


@pytest.mark.parametrize(
    ("images", "prompts", "limit", "calls"),
    [
        (1, 3, 4, [[(0, 0), (0, 1), (0, 2)]]),
        (3, 1, 4, [[(0, 0), (1, 0), (2, 0)]]),
        (2, 2, 4, [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]),
        (1, 3, 2, [[(0, 0), (0, 1)], [(0, 2)]]),
        (3, 2, 4, [[(0, 0), (1, 0), (2, 0)], [(0, 1), (1, 1), (2, 1)]]),
    ],
)
def test_calls_go_by_image_or_by_prompt(
    images: int, prompts: int, limit: int, calls: list[list[tuple[int, int]]]
) -> None:
    features = {"fpn_feat_0": np.arange(images), "fpn_pos_2": np.zeros(1)}
    tokens = [[embedding(1, 10 * image + prompt) for prompt in range(prompts)] for image in range(images)]
    found = list(decoder_calls(features, tokens, limit))
    assert [call.rows for call in found] == calls
    for call in found:
        assert [one.features[0, 0] for one in call.tokens] == [10 * image + prompt for image, prompt in call.rows]
        shown = sorted({image for image, _ in call.rows})
        assert np.asarray(call.features["fpn_feat_0"]).tolist() == shown


def test_the_position_table_is_everyones() -> None:
    features = {"fpn_feat_0": np.arange(4), "fpn_pos_2": np.zeros(1)}
    part = features_of(features, 2, 3)
    assert np.asarray(part["fpn_feat_0"]).tolist() == [2]
    assert part["fpn_pos_2"] is features["fpn_pos_2"]
