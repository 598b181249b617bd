from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.tensor_files import read_tensors, write_tensors


def parse(description: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, Any]:
    return description["name"], tensors["values"]


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    write_tensors(tmp_path / "a", "key", {"format": 2, "name": "é"}, {"values": values})
    name, found = read_tensors(tmp_path / "a", "key", 2, parse)
    assert name == "é"
    np.testing.assert_array_equal(found, values)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_files_are_explained(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", "key", {"format": 2}, {})
    (tmp_path / "b").write_bytes(b"no tensors")
    for name, key, version, message in (
        ("none", "key", 2, "none is missing\nHint: run snakemake"),
        ("a", "key", 1, "has format 2, not 1\nHint: delete it and run snakemake"),
        ("a", "key", 2, "damaged or of another kind: 'name'"),
        ("a", "other", 2, "damaged or of another kind: 'other'"),
        ("b", "key", 2, "damaged or of another kind"),
    ):
        with pytest.raises(RecordError, match=message):
            read_tensors(tmp_path / name, key, version, parse)
