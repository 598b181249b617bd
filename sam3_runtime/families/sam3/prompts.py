"""What is looked for: words, example boxes on the same picture, or both; and their form as tensors.

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
"""The words of a prompt that has boxes alone, as in transformers."""
END_OF_TEXT = "<|endoftext|>"

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the picture."""

log = logging.getLogger(__name__)


class PromptError(Sam3Error):
    """A prompt that says nothing, or a box that is not on the picture."""


@dataclass(frozen=True)
class Prompt:
    """One concept to find: ``text``, example ``boxes`` (xyxy pixels of the picture that is searched), or both.

    ``labels`` says of each box whether it shows the concept (1) or something else (0); all 1 where left out.
    :class:`PromptError` for a prompt without either, an empty box, too many boxes, or labels that do not fit.
    """

    text: str | None = None
    boxes: tuple[Box, ...] = ()
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise PromptError("the prompt is empty", "name what is to be found, such as 'person'")
        if self.text is not None and self.text != printable(self.text):
            raise PromptError(f"the prompt {self.text!r} is no Unicode", "type it in a terminal that is set to UTF-8")
        if self.text is None and not self.boxes:
            raise PromptError("a prompt needs words or boxes", "Prompt('person'), or Prompt(boxes=((x0, y0, x1, y1),))")
        if len(self.boxes) > MAX_BOXES:
            raise PromptError(
                f"the prompt {self.name!r} has {len(self.boxes)} boxes", f"at most {MAX_BOXES} fit one prompt"
            )
        if not self.labels:
            object.__setattr__(self, "labels", (1,) * len(self.boxes))
        if len(self.labels) != len(self.boxes) or not set(self.labels) <= {0, 1}:
            raise PromptError(
                f"the prompt {self.name!r} has {counted(len(self.boxes), 'box')} and the labels {list(self.labels)}",
                "one label a box: 1 shows what is looked for, 0 does not",
            )
        for box in self.boxes:
            if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
                raise PromptError(
                    f"the box {list(box)} is empty", "boxes are x0, y0, x1, y1 in pixels, with x0 < x1 and y0 < y1"
                )

    @property
    def words(self) -> str:
        """The words that the text encoder reads."""
        return BOXES_ONLY_TEXT if self.text is None else self.text

    @property
    def name(self) -> str:
        """What results are labelled with."""
        return self.words


def as_prompt(value: Prompt | str) -> Prompt:
    return Prompt(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Tokens:
    """``input_ids`` and ``attention_mask`` (1 = token, 0 = padding), both int64 [P, T]."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class Tokenizer:
    """A CLIP tokenizer that gives every text exactly ``length`` tokens: padded, or cut with a warning.

    Equals transformers' ``tokenizer(texts, padding="max_length", max_length=length)`` where nothing is cut;
    transformers itself fails later on longer texts. Safe to call from several threads.
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
        """That of the file's own padding, else ``<|endoftext|>``, which CLIP and facebook/sam3 pad with."""
        padding = self._tokenizer.padding
        found = padding["pad_id"] if padding else self._tokenizer.token_to_id(END_OF_TEXT)
        if found is None:
            raise RecordError(
                f"{file} names no padding and has no {END_OF_TEXT}", "use the tokenizer of a SAM3 checkpoint"
            )
        return int(found)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenise P texts; int64 [P, length] each."""
        ids = np.full((len(texts), self.length), self._pad, np.int64)
        mask = np.zeros((len(texts), self.length), np.int64)
        for row, text in enumerate(texts):
            tokens = self._encode(text)
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return Tokens(ids, mask)

    def count(self, text: str) -> int:
        """The tokens that ``text`` has, before anything is cut."""
        return len(self._tokenizer.encode(text).ids)

    def _encode(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text)
        ids: list[int] = encoding.ids
        if len(ids) <= self.length:
            return ids
        # The last token marks the end and stays.
        kept = text[: encoding.offsets[self.length - 2][1]]
        log.warning(
            "the prompt %r has %d tokens and the model takes %d; it is read as %r", text, len(ids), self.length, kept
        )
        return [*ids[: self.length - 1], ids[-1]]


@dataclass(frozen=True)
class BoxRows:
    """Boxes of P prompts, padded to the longest: cxcywh from 0 to 1, float32 [P, n, 4], and labels int64 [P, n]."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def box_rows(prompts: Sequence[Prompt], size: tuple[int, int]) -> BoxRows:
    """The boxes of prompts for a picture of ``size`` (height, width), as the geometry encoder takes them.

    Rows are padded with label −10. :class:`PromptError` for a box that is not on the picture.
    """
    most = max(len(prompt.boxes) for prompt in prompts)
    boxes = np.zeros((len(prompts), most, 4), np.float32)
    labels = np.full((len(prompts), most), BOX_PADDING_LABEL, np.int64)
    for row, prompt in enumerate(prompts):
        if prompt.boxes:
            boxes[row, : len(prompt.boxes)] = _normalized(prompt.boxes, size)
            labels[row, : len(prompt.boxes)] = prompt.labels
    return BoxRows(boxes, labels)


def _normalized(boxes: Sequence[Box], size: tuple[int, int]) -> NDArray[np.float32]:
    """xyxy pixels [n, 4] → cxcywh 0..1, in float32 and in the reference's order: divided first."""
    height, width = size
    for x0, y0, x1, y1 in boxes:
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise PromptError(
                f"the box {[x0, y0, x1, y1]} is not on the picture, which is {width} x {height} pixels",
                "boxes are x0, y0, x1, y1 in pixels of the picture that they are on",
            )
    corners = np.asarray(boxes, np.float32) / np.asarray([width, height, width, height], np.float32)
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / np.float32(2), high - low], axis=1)
