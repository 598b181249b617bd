"""Prompts: words, example boxes on the same image, or both; and their tensors.

Knows the tokenizer (a ``tokenizer.json``) and the model's conventions for boxes, and no engine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import RecordError, Sam3Error, printable
from sam3_runtime.core.hints import command_for
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL, MAX_BOXES

BOXES_ONLY_TEXT = "visual"
"""The words of a prompt with boxes alone, as in transformers."""
END_OF_TEXT = "<|endoftext|>"

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: pixels of the image, or shares of its width and height from 0 to 1 in a ``relative`` prompt."""

log = logging.getLogger(__name__)


class PromptError(Sam3Error):
    """An empty prompt, or a box outside its image."""


@dataclass(frozen=True)
class Prompt:
    """One concept to find: ``text``, example ``boxes`` on the searched image, or both.

    ``boxes`` are x0, y0, x1, y1 in pixels, or, if ``relative``, from 0 to 1 of the image's width and height. ``labels``
    has one entry for each box: 1 if it shows the concept, 0 if it shows something else; all 1 when left out.
    :class:`PromptError` for a prompt without text and boxes, an empty box, too many boxes, or wrong labels.
    """

    text: str | None = None
    boxes: tuple[Box, ...] = ()
    labels: tuple[int, ...] = ()
    relative: bool = False

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise PromptError("the prompt is empty", "name what to find, such as 'person'")
        if self.text is not None and self.text != printable(self.text):
            raise PromptError(f"the prompt {self.text!r} is not valid Unicode", "use a terminal that is set to UTF-8")
        if self.text is None and not self.boxes:
            raise PromptError("a prompt needs words or boxes", "Prompt('person'), or Prompt(boxes=((x0, y0, x1, y1),))")
        if len(self.boxes) > MAX_BOXES:
            raise PromptError(
                f"the prompt {self.name!r} has {len(self.boxes)} boxes", f"give at most {MAX_BOXES} per prompt"
            )
        if not self.labels:
            object.__setattr__(self, "labels", (1,) * len(self.boxes))
        if len(self.labels) != len(self.boxes) or not set(self.labels) <= {0, 1}:
            raise PromptError(
                f"the prompt {self.name!r} has {counted(len(self.boxes), 'box')} and the labels {list(self.labels)}",
                "give one label per box: 1 if it shows the concept, else 0",
            )
        for box in self.boxes:
            if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
                raise PromptError(f"the box {list(box)} is empty", "boxes are x0, y0, x1, y1 with x0 < x1 and y0 < y1")
            if self.relative and not (min(box) >= 0 and max(box) <= 1):
                raise PromptError(
                    f"the relative box {list(box)} is not within 0 and 1",
                    "relative boxes are shares of the image's width and height; leave the option out for pixels",
                )

    @property
    def words(self) -> str:
        """The input of the text encoder."""
        return BOXES_ONLY_TEXT if self.text is None else self.text

    @property
    def name(self) -> str:
        """The label of its detections."""
        return self.words


def check_unit(boxes: Sequence[Box], option: str) -> None:
    """Raise :class:`PromptError` for a pixel box within 0..1: it was meant as relative, which needs ``option``."""
    for box in boxes:
        if max(box) <= 1:
            raise PromptError(
                f"the box {list(box)} is at most one pixel wide and high",
                f"write pixels; for shares of the image's width and height, from 0 to 1, add {option}",
            )


def as_prompt(value: Prompt | str) -> Prompt:
    """Return ``value``, or the prompt of these words."""
    return Prompt(value) if isinstance(value, str) else value


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
        """The id of the file's own padding, else of ``<|endoftext|>``, with which CLIP and facebook/sam3 pad."""
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
