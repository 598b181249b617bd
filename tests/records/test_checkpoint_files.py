"""The files of a checkpoint's weights, and what identifies them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3_runtime.records.checkpoint_files import INDEX, WEIGHTS, checkpoint_digest, shards_of


def test_weights_are_in_one_file_or_in_those_of_the_index(tmp_path: Path) -> None:
    assert shards_of(tmp_path) == [WEIGHTS]
    index = {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert shards_of(tmp_path) == ["1.safetensors", "2.safetensors"]


@pytest.mark.parametrize(("content", "error"), [("{", ValueError), ("{}", KeyError)])
def test_a_damaged_index_is_an_error(tmp_path: Path, content: str, error: type[Exception]) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(error):
        shards_of(tmp_path)


def test_the_digest_is_of_every_file_and_of_no_order() -> None:
    digest = checkpoint_digest("c", {"1": "a", "2": "b"})
    assert digest == checkpoint_digest("c", {"2": "b", "1": "a"})
    others = [("d", {"1": "a", "2": "b"}), ("c", {"1": "b", "2": "a"}), ("c", {"1": "a"})]
    assert len({digest, *(checkpoint_digest(config, weights) for config, weights in others)}) == 4
