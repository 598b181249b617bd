"""The reference file: what is in it, and that it says what ``Sam3Model`` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import CheckpointError, ExportError, RecordError
from sam3_runtime.families.sam3.export import reference as export
from sam3_runtime.families.sam3.reference import Reference, read_reference
from sam3_runtime.records.records import CheckpointLock
from tests.conftest import SMALL

PROMPTS = ["cat", "red car"]


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.integers(0, 255, (90, 120 + 20 * place, 3), np.uint8) for place, name in enumerate("ab")}


@pytest.fixture(scope="module")
def file(demo_lock: CheckpointLock, images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "r182.safetensors"
    export.compute_reference(demo_lock, path, resolution=SMALL, images=images, prompts=PROMPTS)
    return path


@pytest.fixture(scope="module")
def found(file: Path) -> Reference:
    return read_reference(file)


def test_every_image_has_every_case(found: Reference, images: dict[str, np.ndarray]) -> None:
    assert [case.picture for case in found.cases] == ["a"] * 4 + ["b"] * 4
    assert [case.text for case in found.cases[:3]] == ["cat", "red car", "visual"]
    assert [case.labels for case in found.cases[:4]] == [(), (), (1, 0), (1,)]
    assert found.texts == ("cat", "red car", "visual")
    for name, image in images.items():
        assert (found.pictures[name] == image).all()
    assert found.resolution == SMALL
    assert found.dims["patch"] == 14


def test_what_is_kept_scores_above_the_threshold(found: Reference) -> None:
    _check_kept(found)
    assert {case.threshold for case in found.cases} == {0.3}
    assert any(len(case.kept) for case in found.cases)


def test_where_nothing_reaches_the_threshold_it_leaves_some_and_not_all(
    demo_lock: CheckpointLock, images: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with random weights."""
    monkeypatch.setattr(export, "SCORE_THRESHOLD", 1.0)
    export.compute_reference(demo_lock, tmp_path / "x", resolution=SMALL, images={"a": images["a"]}, prompts=["cat"])
    found = read_reference(tmp_path / "x")
    _check_kept(found)
    assert len(found.cases) == 3
    assert all(5 <= len(case.kept) <= 20 for case in found.cases)


def _check_kept(found: Reference) -> None:
    for case in found.cases:
        assert (case.scores[case.kept] > case.threshold).all()
        assert (case.scores > case.threshold).sum() == len(case.kept)
        assert case.masks.shape == (len(case.kept), 52, 52)
        flat = case.masks.reshape(len(case.kept), 52 * 52)[:, found.mask_index]
        np.testing.assert_allclose(flat, case.mask_samples[case.kept], rtol=1e-3, atol=1e-2)  # masks are float16


def test_it_is_what_the_model_says(found: Reference, demo_lock: CheckpointLock) -> None:
    """From the file alone: preprocessed again, and run through the whole model."""
    import torch
    from PIL import Image
    from transformers import Sam3ImageProcessor

    from sam3_runtime.families.sam3.export.weights import load_model

    processor = Sam3ImageProcessor(size={"height": SMALL, "width": SMALL})
    pixels = processor(Image.fromarray(found.pictures["b"]), return_tensors="pt")["pixel_values"]
    case = found.cases[6]
    row = found.texts.index(case.text)
    with torch.no_grad():
        outputs = load_model(demo_lock, SMALL)(
            pixel_values=pixels,
            input_ids=torch.from_numpy(found.input_ids[row : row + 1]),
            attention_mask=torch.from_numpy(found.attention_mask[row : row + 1]),
            input_boxes=torch.from_numpy(case.input_boxes)[None],
            input_boxes_labels=torch.from_numpy(case.input_boxes_labels)[None],
        )
    assert np.abs(outputs.pred_logits[0].numpy() - case.pred_logits).max() < 1e-5
    assert np.abs(outputs.pred_boxes[0].numpy() - case.pred_boxes).max() < 1e-5
    assert case.geometry_features.shape == (3, 64)
    assert case.geometry_mask.all()
    (x0, y0, x1, y1), image = case.boxes[0], found.pictures["b"]
    size = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    wanted = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / size
    assert np.abs(case.input_boxes[0] - wanted).max() < 1e-6


def test_the_same_bytes_again(
    file: Path, demo_lock: CheckpointLock, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    export.compute_reference(demo_lock, tmp_path / "x", resolution=SMALL, images=images, prompts=PROMPTS)
    assert (tmp_path / "x").read_bytes() == file.read_bytes()


def test_nothing_detected_is_an_error(demo_lock: CheckpointLock, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    one = {"a": images["a"]}
    with pytest.raises(CheckpointError, match="detects nothing"):
        export.compute_reference(
            demo_lock, tmp_path / "x", resolution=SMALL, images=one, prompts=["cat"], threshold=0.99
        )
    assert not (tmp_path / "x").exists()


def test_a_file_too_large_is_an_error(
    demo_lock: CheckpointLock, images: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST_FILE", 1000)
    with pytest.raises(ExportError, match="more than"):
        export.compute_reference(
            demo_lock, tmp_path / "x", resolution=SMALL, images={"a": images["a"]}, prompts=["cat"]
        )


def test_damaged_files_are_explained(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is missing"):
        read_reference(tmp_path / "none")
    (tmp_path / "half").write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RecordError, match="is damaged"):
        read_reference(tmp_path / "half")
