"""Converts the decoder's tensors to detections: scores, boxes in pixels, masks at the size of the image.

Equals transformers' ``post_process_instance_segmentation``: score = sigmoid(logit) · sigmoid(presence), selected where
greater than the threshold; masks go through the sigmoid, are resized bilinearly, and are cut at 0.5. Rows are selected
by score first, so that only their masks are resized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.imaging.postprocess import Detections, Finish, Size, begin_masks, sigmoid

MaskResizer = Callable[[Any, int, NDArray[np.intp], Size], Finish]
"""Starts to resize the masks of one prompt's ``rows``, from logits [P, Q, h, w], to the size of the image."""


def scores_of(
    pred_logits: NDArray[np.floating[Any]], presence_logits: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Return scores float32 [P, Q] from logits [P, Q] and the presence logits of the prompts [P, 1]."""
    return sigmoid(pred_logits) * sigmoid(presence_logits)


def select_rows(scores: NDArray[np.float32], threshold: float, top: int | None = None) -> NDArray[np.intp]:
    """Return the indices into ``scores`` [Q] of those above ``threshold``, or of the ``top`` best, ascending."""
    if top is not None:
        return np.sort(np.argsort(-scores, kind="stable")[:top])
    return np.flatnonzero(scores > threshold)


def scale_boxes(boxes: NDArray[np.floating[Any]], size: Size) -> NDArray[np.float32]:
    """Scale xyxy boxes [..., 4] from 0..1 to the pixels of an image of ``size`` (height, width)."""
    return np.asarray(boxes, np.float32) * np.asarray([*size[::-1], *size[::-1]], np.float32)


def begin_detections(
    outputs: Mapping[str, Any],
    row: int,
    size: Size,
    *,
    prompt: str,
    prompt_index: int,
    threshold: float,
    top: int | None = None,
    begin: MaskResizer = begin_masks,
) -> Callable[[], Detections]:
    """Start on the detections in one row of the decoder's ``outputs``, for an image of ``size`` (height, width).

    Selects scores above ``threshold``, or, with ``top``, that many best ones (to benchmark weights that detect
    nothing). ``begin`` resizes the selected masks on the device that has the logits. Call the result to wait for them.
    """
    scores = scores_of(outputs["pred_logits"][row], outputs["presence_logits"][row])
    rows = select_rows(scores, threshold, top)
    boxes = scale_boxes(outputs["pred_boxes"][row, rows], size)
    query_index = np.asarray(outputs["query_index"][row, rows], np.int64)
    masks = begin(outputs["pred_masks"], row, rows, size)
    return lambda: Detections(prompt, prompt_index, boxes, scores[rows], masks(), query_index)


def detections_of(outputs: Mapping[str, Any], row: int, size: Size, **options: Any) -> Detections:
    """Return what :func:`begin_detections` starts, which takes the same arguments."""
    return begin_detections(outputs, row, size, **options)()
