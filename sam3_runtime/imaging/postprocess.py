"""Turns the decoder's tensors into detections: scores, boxes in pixels, masks at the picture's size.

Equals transformers' ``post_process_instance_segmentation``: score = sigmoid(logit) · sigmoid(presence), kept when
greater than the threshold; masks go through the sigmoid, are resized bilinearly, and are cut at 0.5. Rows are chosen by
score first, so that only those that are kept are resized. Knows no engine and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 0.5
Size = tuple[int, int]
"""Height and width in pixels."""
Finish = Callable[[], Any]
"""Waits for what was begun, and gives it."""
MaskResizer = Callable[[Any, int, NDArray[np.intp], Size], Finish]
"""Begins the masks of some rows of one prompt, of logits [P, Q, h, w], at the picture's size."""


@dataclass(frozen=True)
class PackedMasks:
    """Masks as a GPU hands them over: ``bits`` uint8 [K, H, ceil(W / 8)], the first pixel in the highest bit."""

    bits: NDArray[np.uint8]
    size: Size

    def unpack(self) -> NDArray[np.bool_]:
        """bool [K, H, W]."""
        return np.unpackbits(self.bits, axis=2, count=self.size[1]).view(np.bool_)

    def at(self, masks: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """bool [N, n, m]: some of the ``masks`` [N], each at its own rows [N, n] and columns [N, m]."""
        octets = self.bits[masks[:, None, None], rows[:, :, None], columns[:, None, :] >> 3]
        shifts = (7 - (columns[:, None, :] & 7)).astype(np.uint8)
        return np.asarray(octets >> shifts & 1).view(np.bool_)


@dataclass(frozen=True)
class Detections:
    """What one prompt found on one picture: K instances, best first.

    ``boxes`` float32 [K, 4] xyxy pixels (not clipped to the picture); ``scores`` float32 [K] from 0 to 1; ``masks``
    bool [K, H, W], unpacked when first asked for; ``query_index`` int64 [K], which of the model's queries each is.
    ``prompt_index`` is the prompt's place in the call, ``prompt`` its name.
    """

    prompt: str
    prompt_index: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    stored_masks: NDArray[np.bool_] | PackedMasks
    query_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def size(self) -> Size:
        stored = self.stored_masks
        return stored.size if isinstance(stored, PackedMasks) else stored.shape[1:]

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        stored = self.stored_masks
        return stored.unpack() if isinstance(stored, PackedMasks) else stored

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


def begin_masks(logits: NDArray[Any], row: int, rows: NDArray[np.intp], size: Size) -> Finish:
    """A :data:`MaskResizer` on the host, which does nothing beforehand."""
    return lambda: resize_masks(logits[row, rows], size)


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
    """The detections in one row of the decoder's ``outputs``, on a picture of ``size``; call it to have them.

    Keeps what scores above ``threshold``, or, where ``top`` is given, that many best ones (for benchmarks on weights
    that detect nothing). ``begin`` makes the kept masks where the logits lie; those of the others are never read.
    """
    scores = scores_of(outputs["pred_logits"][row], outputs["presence_logits"][row])
    rows = keep_rows(scores, threshold, top)
    boxes = scale_boxes(outputs["pred_boxes"][row, rows], size)
    query_index = np.asarray(outputs["query_index"][row, rows], np.int64)
    masks = begin(outputs["pred_masks"], row, rows, size)
    return lambda: Detections(prompt, prompt_index, boxes, scores[rows], masks(), query_index)


def detections_of(outputs: Mapping[str, Any], row: int, size: Size, **chosen: Any) -> Detections:
    """:func:`begin_detections`, and waits for them."""
    return begin_detections(outputs, row, size, **chosen)()


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
