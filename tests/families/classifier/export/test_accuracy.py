"""The accuracy of the model itself on labelled images."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import CheckpointError, ExportError
from sam3_runtime.families.classifier import reference as records
from sam3_runtime.families.classifier.export.accuracy import compute_accuracy
from sam3_runtime.records.records import CheckpointLock
from tests.families.classifier.conftest import RESOLUTION


def test_a_reference_that_recognises_nothing_means_nothing(
    lock: CheckpointLock, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "sam3_runtime.families.classifier.export.accuracy.accuracy_of"
    monkeypatch.setattr(target, lambda *_: {"top1": 0.0, "top5": 0.0})
    with pytest.raises(CheckpointError, match="recognises nothing"):
        compute_accuracy(lock, tmp_path / "a", resolution=RESOLUTION, data={"folder": str(labelled)}, limit=9)
    monkeypatch.setattr(records, "LARGEST_FILE", 1)
    with pytest.raises(ExportError, match="4 images"):
        compute_accuracy(lock, tmp_path / "a", resolution=RESOLUTION, data={"folder": str(labelled)}, limit=9)
