"""The reference file of a classifier, and the accuracy that follows from logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.families.classifier.reference import Reference, accuracy_of, write_reference
from sam3_runtime.families.classifier.reference import read_reference as read_file
from tests.families.classifier.conftest import RESOLUTION

Photos = dict[str, np.ndarray]


def test_a_reference_is_read_as_written(reference: Path, photos: Photos, tmp_path: Path) -> None:
    found = read_file(reference)
    assert list(found.pictures) == list(photos)
    assert all(np.array_equal(found.pictures[name], photos[name]) for name in photos)
    assert (found.resolution, found.logits.dtype, set(found.versions)) == (RESOLUTION, np.float32, {"torch", "timm"})
    with pytest.raises(RecordError, match="is missing"):
        read_file(tmp_path / "none")
    (tmp_path / "half").write_bytes(reference.read_bytes()[:-100])
    with pytest.raises(RecordError, match="is damaged"):
        read_file(tmp_path / "half")
    write_reference(tmp_path / "short", replace(found, logits=found.logits[:2]))
    with pytest.raises(RecordError, match="numbers of images, logits and labels differ"):
        read_file(tmp_path / "short")


def test_truth_is_what_counts() -> None:
    logits = np.array([[3, 2, 1], [1, 2, 3]], np.float32)
    assert accuracy_of(logits, np.array([0, 0])) == {"top1": 0.5, "top5": 1.0}
    many = np.tile(np.arange(7, dtype=np.float32), (2, 1))
    assert accuracy_of(many, np.array([6, 0])) == {"top1": 0.5, "top5": 0.5}
    assert Reference(1, "", {}, {}, logits).truth is None
