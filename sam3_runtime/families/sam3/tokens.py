"""Tensors of prompts: the tokens of their words, and their boxes as the geometry encoder takes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.hints import command_for
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL
from sam3_runtime.families.sam3.prompts import Prompt, PromptError

END_OF_TEXT = "<|endoftext|>"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """``input_ids`` and ``attention_mask`` (1 = token, 0 = padding), both int64 [P, T]."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class Tokenizer:
    """A CLIP tokenizer that returns exactly ``length`` tokens for every text: padded, or truncated with a warning.

    Equals transformers' ``tokenizer(texts, padding="max_length", max_length=length)`` where nothing is truncated;
    transformers itself fails later on longer texts. Thread-safe. :class:`RecordError` for a missing or damaged file.
    """

    def __init__(self, file: Path, length: int) -> None:
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception for missing and damaged files alike
            reason = "is missing" if not file.exists() else f"is damaged: {error}"
            raise RecordError(f"{file} {reason}", f"delete it and run {command_for(Path(file))}") from None
        self.length = length
        self._pad = self._padding_id(file)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def _padding_id(self, file: Path) -> int:
        """Return the id of the file's own padding, else of ``<|endoftext|>``, with which CLIP and facebook/sam3 pad."""
        padding = self._tokenizer.padding
        found = padding["pad_id"] if padding else self._tokenizer.token_to_id(END_OF_TEXT)
        if found is None:
            raise RecordError(f"{file} has no padding and no {END_OF_TEXT}", "use the tokenizer of a SAM3 checkpoint")
        return int(found)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenise P texts: int64 [P, length] each."""
        ids = np.full((len(texts), self.length), self._pad, np.int64)
        mask = np.zeros((len(texts), self.length), np.int64)
        for row, text in enumerate(texts):
            tokens = self._encode(text)
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return Tokens(ids, mask)

    def count(self, text: str) -> int:
        """Return how many tokens ``text`` has, before truncation."""
        return len(self._tokenizer.encode(text).ids)

    def _encode(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text)
        ids: list[int] = encoding.ids
        if len(ids) <= self.length:
            return ids
        # The last token marks the end and stays.
        used = text[: encoding.offsets[self.length - 2][1]]
        log.warning(
            "the prompt %r has %d tokens and the model takes %d; it is read as %r", text, len(ids), self.length, used
        )
        return [*ids[: self.length - 1], ids[-1]]


@dataclass(frozen=True)
class BoxRows:
    """The boxes of P prompts, padded to the longest: cxcywh from 0 to 1, float32 [P, n, 4]; labels int64 [P, n]."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def box_rows(prompts: Sequence[Prompt], size: tuple[int, int]) -> BoxRows:
    """Return the boxes of prompts for an image of ``size`` (height, width), as the geometry encoder takes them.

    Rows are padded with label −10. :class:`PromptError` for a box outside the image.
    """
    most = max(len(prompt.boxes) for prompt in prompts)
    boxes = np.zeros((len(prompts), most, 4), np.float32)
    labels = np.full((len(prompts), most), BOX_PADDING_LABEL, np.int64)
    for row, prompt in enumerate(prompts):
        if prompt.boxes:
            boxes[row, : len(prompt.boxes)] = _normalized(prompt, size)
            labels[row, : len(prompt.boxes)] = prompt.labels
    return BoxRows(boxes, labels)


def _normalized(prompt: Prompt, size: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes xyxy → cxcywh 0..1, in float32 [n, 4]; in the reference's order: divided first."""
    height, width = (1, 1) if prompt.relative else size
    for x0, y0, x1, y1 in prompt.boxes:
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise PromptError(
                f"the box {[x0, y0, x1, y1]} is outside the image, which is {width} x {height} pixels",
                "boxes are x0, y0, x1, y1 in pixels of the image that they are on",
            )
    corners = np.asarray(prompt.boxes, np.float32) / np.asarray([width, height, width, height], np.float32)
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / np.float32(2), high - low], axis=1)
