"""Turns the decoder's tensors into detections: scores, boxes in pixels, masks at the picture's size.

Equals transformers' ``post_process_instance_segmentation``: score = sigmoid(logit) · sigmoid(presence), kept when
greater than the threshold; masks go through the sigmoid, are resized bilinearly, and are cut at 0.5. Rows are chosen by
score first, so that only those that are kept are resized. Knows no engine and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 0.5
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Detections:
    """What one prompt found on one picture: K instances, best first.

    ``boxes`` float32 [K, 4] xyxy pixels (not clipped to the picture); ``scores`` float32 [K] from 0 to 1; ``masks``
    bool [K, H, W]; ``query_index`` int64 [K], which of the model's queries each is. ``prompt_index`` is the prompt's
    place in the call, ``prompt`` its name.
    """

    prompt: str
    prompt_index: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_]
    query_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def rle(self) -> list[dict[str, Any]]:
        """The masks in COCO's run-length encoding: ``{"size": [H, W], "counts": str}`` each."""
        return [mask_to_rle(mask) for mask in self.masks]


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """In float32, whatever the engine's type; large negative logits give 0 without a warning."""
    values = np.negative(logits, dtype=np.float32)
    with np.errstate(over="ignore"):
        np.exp(values, out=values)
    values += np.float32(1)
    return np.asarray(np.reciprocal(values, out=values))


def scores_of(
    pred_logits: NDArray[np.floating[Any]], presence_logits: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Scores float32 [P, Q] from logits [P, Q] and the prompt's presence [P, 1]."""
    return sigmoid(pred_logits) * sigmoid(presence_logits)


def keep_rows(scores: NDArray[np.float32], threshold: float, top: int | None = None) -> NDArray[np.intp]:
    """Rows of ``scores`` [Q] to keep: those above ``threshold``, or the ``top`` best whatever their score."""
    if top is not None:
        return np.sort(np.argsort(-scores, kind="stable")[:top])
    return np.flatnonzero(scores > threshold)


def scale_boxes(boxes: NDArray[np.floating[Any]], size: Size) -> NDArray[np.float32]:
    """xyxy from 0 to 1 → pixels, float32 [..., 4]."""
    height, width = size
    return np.asarray(boxes, np.float32) * np.asarray([width, height, width, height], np.float32)


def resize_masks(logits: NDArray[np.floating[Any]], size: Size) -> NDArray[np.bool_]:
    """Mask logits [K, h, w] → bool [K, H, W]. OpenCV's linear is torch's bilinear to 4e-5, enlarging or not."""
    height, width = size
    masks = np.empty((len(logits), height, width), np.bool_)
    for probability, mask in zip(sigmoid(logits), masks, strict=True):
        resized = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
        np.greater(resized, MASK_THRESHOLD, out=mask)
    return masks


def detections_of(
    outputs: Mapping[str, NDArray[Any]],
    row: int,
    size: Size,
    *,
    prompt: str,
    prompt_index: int,
    threshold: float,
    top: int | None = None,
) -> Detections:
    """The detections in one row of the decoder's ``outputs``, on a picture of ``size``.

    Keeps what scores above ``threshold``, or, where ``top`` is given, that many best ones (for benchmarks on weights
    that detect nothing).
    """
    scores = scores_of(outputs["pred_logits"][row], outputs["presence_logits"][row])
    rows = keep_rows(scores, threshold, top)
    return Detections(
        prompt=prompt,
        prompt_index=prompt_index,
        boxes=scale_boxes(outputs["pred_boxes"][row, rows], size),
        scores=scores[rows],
        masks=resize_masks(outputs["pred_masks"][row, rows], size),
        query_index=np.asarray(outputs["query_index"][row, rows], np.int64),
    )


# --- run-length encoding ----------------------------------------------------------------------------------------------


def mask_to_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a mask [H, W], with ``counts`` as text, ready for JSON."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def rle_to_mask(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The inverse of :func:`mask_to_rle`: bool [H, W]."""
    from pycocotools import mask as coco

    return np.asarray(coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}), np.bool_)
