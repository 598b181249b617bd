"""Words as tokens, as transformers makes them, and boxes as the geometry encoder takes them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.families.sam3.prompts import Prompt, PromptError
from sam3_runtime.families.sam3.tokens import Tokenizer, box_rows
from tests.fake_variant import small_tokenizer

BOX = (10.0, 20.0, 30.0, 60.0)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(small_tokenizer())
    return path


def test_boxes_become_centres_and_sizes_and_rows_are_padded() -> None:
    rows = box_rows([Prompt(boxes=(BOX,)), Prompt("cup", (BOX, (0, 0, 100, 200)), (0, 1))], (200, 100))
    assert rows.boxes.shape == (2, 2, 4)
    assert np.allclose(rows.boxes[0, 0], [0.2, 0.2, 0.2, 0.2])
    assert rows.boxes[1, 1].tolist() == [0.5, 0.5, 1, 1]
    assert rows.labels.tolist() == [[1, -10], [0, 1]]


def test_relative_boxes_have_no_image_size() -> None:
    prompt = Prompt(boxes=((0.1, 0.1, 0.3, 0.3),), relative=True)
    for size in ((200, 100), (31, 47)):
        assert np.allclose(box_rows([prompt], size).boxes, [[[0.2, 0.2, 0.2, 0.2]]])
    both = box_rows([prompt, Prompt(boxes=(BOX,))], (200, 100))
    assert np.allclose(both.boxes[:, 0], [0.2, 0.2, 0.2, 0.2]), "each prompt in its own unit"


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 101, 5), (0, 0, 5, 201)])
def test_a_box_off_the_picture_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(PromptError, match="which is 100 x 200 pixels"):
        box_rows([Prompt(boxes=(box,))], (200, 100))


TEXTS = ["person", "red car", "a PERSON  with a hat", "", "the cat's whiskers, grey", "Tür 42!", "日本"]


def test_tokens_equal_those_of_transformers(demo_checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(demo_checkpoint)
    ours = Tokenizer(demo_checkpoint / "tokenizer.json", 32)
    for texts in (TEXTS, ["visual"]):
        expected = theirs(texts, padding="max_length", max_length=32, return_tensors="np")
        got = ours(texts)
        assert got.input_ids.dtype == got.attention_mask.dtype == np.int64
        assert np.array_equal(got.input_ids, expected["input_ids"])
        assert np.array_equal(got.attention_mask, expected["attention_mask"])


def test_a_long_text_is_cut_and_the_warning_says_where(letters: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokenizer(letters, 8)
    with caplog.at_level(logging.WARNING):
        row = tokens(["a red sports car"]).input_ids[0]
    assert row.tolist() == [0, *(ord(letter) - 31 for letter in "aredsp"), 1]
    assert "has 15 tokens and the model takes 8; it is read as 'a red sp'" in caplog.text
    caplog.clear()
    tokens(["red"])
    assert not caplog.text


def test_the_files_own_padding_comes_first(letters: Path) -> None:
    content = json.loads(letters.read_text())
    content["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    letters.write_text(json.dumps(content))
    tokens = Tokenizer(letters, 6)(["hi"])
    assert tokens.input_ids.tolist() == [[0, ord("h") - 31, ord("i") - 31, 1, 2, 2]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0]]


def test_a_missing_or_damaged_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is missing"):
        Tokenizer(tmp_path / "tokenizer.json", 32)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RecordError, match="is damaged"):
        Tokenizer(tmp_path / "tokenizer.json", 32)
