from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from sam3_runtime.families.sam3.postprocess import begin_detections, detections_of, scores_of, select_rows
from sam3_runtime.imaging.postprocess import PackedMasks, resize_masks


def outputs(rows: int = 2, queries: int = 30, side: int = 48, dtype: str = "float32") -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    return {
        "pred_masks": random.normal(0, 4, (rows, queries, side, side)).astype(dtype),
        "pred_boxes": random.uniform(0, 1, (rows, queries, 4)).astype(dtype),
        "pred_logits": -np.sort(-random.normal(0, 2, (rows, queries)), axis=1).astype(dtype),
        "presence_logits": random.normal(2, 1, (rows, 1)).astype(dtype),
        "query_index": np.stack([random.permutation(200)[:queries] for _ in range(rows)]),
    }


@pytest.mark.parametrize("size", [(100, 150), (48, 48), (20, 31), (24, 24), (200, 17)])
def test_equals_the_reference(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made = outputs()
    model = SimpleNamespace(**{name: torch.from_numpy(array) for name, array in made.items()})
    processor = transformers.Sam3ImageProcessor()
    expected = processor.post_process_instance_segmentation(model, threshold=0.3, target_sizes=[size] * 2)
    assert len(expected) == 2
    for row, reference in enumerate(expected):
        got = detections_of(made, row, size, prompt="cup", prompt_index=3, threshold=0.3)
        assert len(got) == len(reference["scores"]) > 3
        assert np.allclose(got.scores, reference["scores"], atol=1e-6)
        assert np.allclose(got.boxes, reference["boxes"], rtol=1e-6)
        assert (got.masks != reference["masks"].numpy().astype(bool)).mean() < 1e-4
        assert got.query_index.tolist() == made["query_index"][row, : len(got)].tolist()
        assert (got.prompt, got.prompt_index) == ("cup", 3)


def test_a_score_equal_to_the_threshold_is_not_kept() -> None:
    scores = np.asarray([0.9, 0.5, 0.3], np.float32)
    assert select_rows(scores, 0.5).tolist() == [0]
    assert select_rows(scores, 0.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("top", "expected"), [(0, []), (2, [1, 3]), (9, [0, 1, 2, 3])])
def test_the_best_whatever_their_score(top: int, expected: list[int]) -> None:
    assert select_rows(np.asarray([0.1, 0.4, 0.2, 0.3], np.float32), 0.99, top).tolist() == expected


def test_nothing_kept_has_the_right_shapes() -> None:
    got = detections_of(outputs(), 0, (9, 7), prompt="cup", prompt_index=0, threshold=1.0)
    assert (got.boxes.shape, got.scores.shape, got.masks.shape, got.query_index.shape) == (
        (0, 4),
        (0,),
        (0, 9, 7),
        (0,),
    )
    assert got.rle() == []


def test_half_precision_outputs_give_float32() -> None:
    got = detections_of(outputs(dtype="float16"), 0, (60, 60), prompt="cup", prompt_index=0, threshold=0.3)
    assert (got.boxes.dtype, got.scores.dtype, got.masks.dtype) == (np.float32, np.float32, np.bool_)
    assert len(got) > 3


def test_scores_are_the_product_of_query_and_presence() -> None:
    assert scores_of(np.zeros((1, 2), np.float32), np.zeros((1, 1), np.float32)).tolist() == [[0.25, 0.25]]


def test_a_device_makes_the_kept_masks_alone_and_they_are_unpacked_when_asked_for() -> None:
    made, asked = outputs(), []

    def begin(logits: np.ndarray, row: int, rows: np.ndarray, size: tuple[int, int]) -> Callable[[], PackedMasks]:
        asked.append(rows.tolist())
        bits = np.packbits(resize_masks(logits[row, rows], size), axis=2)
        return lambda: PackedMasks(bits, size)

    chosen = {"prompt": "cup", "prompt_index": 0, "threshold": 0.3}
    finish = begin_detections(made, 1, (33, 21), **chosen, begin=begin)
    wanted = detections_of(made, 1, (33, 21), **chosen)
    assert asked == [list(range(len(wanted)))]
    made["pred_masks"][:] = 0  # the next run writes them again
    found = finish()
    assert isinstance(found.stored_masks, PackedMasks)
    assert np.array_equal(found.masks, wanted.masks)
    assert found.rle() == wanted.rle()
