"""Masks and detections at the size of the image, and COCO's run-length encoding."""

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
"""Waits for masks whose resizing was started, and returns them: bool [K, H, W] or :class:`PackedMasks`."""


@dataclass(frozen=True)
class PackedMasks:
    """Masks as a GPU writes them: ``bits`` uint8 [K, H, ceil(W / 8)], the first pixel in the highest bit."""

    bits: NDArray[np.uint8]
    size: Size

    def unpack(self) -> NDArray[np.bool_]:
        """Return bool [K, H, W]."""
        return np.unpackbits(self.bits, axis=2, count=self.size[1]).view(np.bool_)

    def at(self, masks: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return bool [N, n, m]: pixels of ``masks`` [N], each at its own ``rows`` [N, n] and ``columns`` [N, m]."""
        octets = self.bits[masks[:, None, None], rows[:, :, None], columns[:, None, :] >> 3]
        shifts = (7 - (columns[:, None, :] & 7)).astype(np.uint8)
        return np.asarray(octets >> shifts & 1).view(np.bool_)


@dataclass(frozen=True)
class Detections:
    """The K instances of one prompt on one image, best first.

    ``boxes`` float32 [K, 4] xyxy in pixels (not clipped to the image); ``scores`` float32 [K] from 0 to 1; ``masks``
    bool [K, H, W], unpacked on first access; ``query_index`` int64 [K], the model's query of each. ``prompt_index`` is
    the index of the prompt in the call, ``prompt`` its name.
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
        """Height and width of the image, in pixels."""
        stored = self.stored_masks
        return stored.size if isinstance(stored, PackedMasks) else stored.shape[1:]

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """The masks, bool [K, H, W]."""
        stored = self.stored_masks
        return stored.unpack() if isinstance(stored, PackedMasks) else stored

    def rle(self) -> list[dict[str, Any]]:
        """Return the masks in COCO's run-length encoding: ``{"size": [H, W], "counts": str}`` each."""
        return [mask_to_rle(mask) for mask in self.masks]


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the sigmoid of ``logits`` in float32, of the same shape; large negative ones give 0 without a warning."""
    values = np.negative(logits, dtype=np.float32)
    with np.errstate(over="ignore"):
        np.exp(values, out=values)
    values += np.float32(1)
    return np.asarray(np.reciprocal(values, out=values))


def resize_masks(logits: NDArray[np.floating[Any]], size: Size) -> NDArray[np.bool_]:
    """Return mask logits [K, h, w] as bool [K, H, W]. OpenCV's linear equals PyTorch's bilinear to 4e-5."""
    height, width = size
    masks = np.empty((len(logits), height, width), np.bool_)
    for probability, mask in zip(sigmoid(logits), masks, strict=True):
        resized = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
        np.greater(resized, MASK_THRESHOLD, out=mask)
    return masks


def begin_masks(logits: NDArray[Any], row: int, rows: NDArray[np.intp], size: Size) -> Finish:
    """Return a function that resizes ``logits[row, rows]`` on the host; nothing runs before it is called."""
    return lambda: resize_masks(logits[row, rows], size)


def mask_to_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's compressed run-length encoding of a mask [H, W], with ``counts`` as text, ready for JSON."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def rle_to_mask(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask, bool [H, W], of what :func:`mask_to_rle` returns."""
    from pycocotools import mask as coco

    return np.asarray(coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}), np.bool_)
