"""What a reference of a classifier may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.classifier import reference as records
from sam3_runtime.families.classifier.export.reference import compute_reference
from sam3_runtime.records.records import CheckpointLock
from tests.families.classifier.conftest import RESOLUTION

Photos = dict[str, np.ndarray]


def test_a_reference_has_pictures_and_an_end(
    lock: CheckpointLock, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="needs images"):
        compute_reference(lock, tmp_path / "r", resolution=RESOLUTION, images={})
    monkeypatch.setattr(records, "LARGEST_FILE", 2_000_000)
    with pytest.raises(ExportError, match=r"4 images: 3 MB, more than 2"):
        compute_reference(lock, tmp_path / "r", resolution=RESOLUTION, images=photos)
