"""The tokenizer of the demo's checkpoint and of `random`: small, complete, and the same every time."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from sam3_runtime.families.sam3.export.tokenizer import VOCABULARY, WORDS, small_tokenizer, small_tokenizer_json


def test_every_id_is_below_the_limit_and_no_character_is_unknown() -> None:
    tokenizer = small_tokenizer()
    text = "".join(chr(code) for code in range(33, 127))
    ids = tokenizer(f"a zebra? {text}")["input_ids"]
    assert max(tokenizer.get_vocab().values()) < VOCABULARY
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == f"azebra?{text.lower()}"


def test_frequent_words_are_few_tokens() -> None:
    tokenizer = small_tokenizer()
    lengths = [len(tokenizer(word)["input_ids"]) - 2 for word in WORDS]
    assert min(lengths) == 1
    assert sum(lengths) / sum(map(len, WORDS)) < 0.5


def test_the_file_is_the_same_every_time() -> None:
    assert small_tokenizer_json() == small_tokenizer_json()
    assert json.loads(small_tokenizer_json())["model"]["type"] == "BPE"
