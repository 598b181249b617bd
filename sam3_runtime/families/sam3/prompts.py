"""Prompts: words, example boxes on the same image, or both. Pure; their tensors are in ``tokens.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sam3_runtime.core.errors import Sam3Error, printable
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.parts import MAX_BOXES

BOXES_ONLY_TEXT = "visual"
"""The words of a prompt with boxes alone, as in transformers."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: pixels of the image, or shares of its width and height from 0 to 1 in a ``relative`` prompt."""


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
