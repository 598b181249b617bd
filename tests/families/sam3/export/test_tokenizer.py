"""The tokenizer of the demo's checkpoint and of `random`: small, complete, and the same every time."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from sam3_runtime.families.sam3.export import tokenizer
from sam3_runtime.families.sam3.export.tokenizer import VOCABULARY, WORDS, small_tokenizer, small_tokenizer_json


def test_every_id_is_below_the_limit_and_no_character_is_unknown() -> None:
    made = small_tokenizer()
    text = "".join(chr(code) for code in range(33, 127))
    ids = made(f"a zebra? {text}")["input_ids"]
    assert max(made.get_vocab().values()) < VOCABULARY
    assert made.decode(ids, skip_special_tokens=True).replace(" ", "") == f"azebra?{text.lower()}"


def test_frequent_words_are_few_tokens() -> None:
    made = small_tokenizer()
    lengths = [len(made(word)["input_ids"]) - 2 for word in WORDS]
    assert min(lengths) == 1
    assert sum(lengths) / sum(map(len, WORDS)) < 0.5


def test_of_equally_frequent_pairs_the_first_in_the_alphabet_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "WORDS", ("ba", "ab"))
    assert tokenizer._learn_merges(9) == [("a", "b</w>"), ("b", "a</w>")]


def test_the_file_is_the_same_every_time() -> None:
    assert small_tokenizer_json() == small_tokenizer_json()
    assert json.loads(small_tokenizer_json())["model"]["type"] == "BPE"
