"""Reads a project file: the classes to detect, each by words, by example boxes on a reference image, or by both.

    classes:
      - words: person
      - name: cup
        words: coffee cup
        threshold: 0.4
        color: "#e63c3c"
        examples: {image: photos/shelf.png, positive: [[10, 20, 90, 120]], negative: [[200, 20, 260, 110]]}

Defines the schema and checks the classes. Uses no engine and reads no image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from typing_extensions import Self

from sam3_runtime.core.errors import ProjectError
from sam3_runtime.core.sections import NonNegative, Section, Share
from sam3_runtime.core.source_files import PACKAGE
from sam3_runtime.core.yaml_document import Document, Lines
from sam3_runtime.families.sam3.prompts import Box, Prompt, PromptError, check_unit
from sam3_runtime.imaging.drawing import Color
from sam3_runtime.plan.settings import json_schema

_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_COLOR_HINT = 'write "#rrggbb" in quotes, or [red, green, blue] from 0 to 255'


def _color(value: Any) -> Color:
    """Return red, green and blue of ``#rrggbb`` or a list; ValueError for anything else."""
    if value is None:
        raise ValueError(f"the colour is empty: outside quotes, # begins a comment\nHint: {_COLOR_HINT}")
    if isinstance(value, str) and (match := _HEX.fullmatch(value.strip())):
        red, green, blue = (int(part, 16) for part in match.groups())
        return red, green, blue
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_byte, value)):
        return value[0], value[1], value[2]
    raise ValueError(f"{value!r} is not a colour\nHint: {_COLOR_HINT}")


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _four_numbers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError(f"{value!r} is not a box\nHint: write [x0, y0, x1, y1] in pixels of the reference image")
    return value


_BYTE = {"type": "integer", "minimum": 0, "maximum": 255}
_HEX_TEXT = {"type": "string", "pattern": f"^{_HEX.pattern}$"}
_RGB_LIST = {"type": "array", "items": _BYTE, "minItems": 3, "maxItems": 3}
ColorValue = Annotated[Color | None, BeforeValidator(_color), WithJsonSchema({"anyOf": [_HEX_TEXT, _RGB_LIST]})]
BoxValue = Annotated[tuple[NonNegative, NonNegative, NonNegative, NonNegative], BeforeValidator(_four_numbers)]


class Examples(Section):
    """Example boxes x0, y0, x1, y1 on one image, after its EXIF rotation."""

    image: str = Field(description="the reference image: a path, relative to this file, or package:NAME/PATH")
    positive: list[BoxValue] = Field([], description="boxes that show the class")
    negative: list[BoxValue] = Field([], description="boxes that show something else")
    relative: bool = Field(
        False, description="boxes are shares of the image's width and height, from 0 to 1; in pixels when left out"
    )

    def boxes(self) -> Iterator[tuple[tuple[str, int], Box]]:
        """Yield every box, positive ones first, with its key and index in this section."""
        for key, boxes in (("positive", self.positive), ("negative", self.negative)):
            for index, box in enumerate(boxes):
                yield (key, index), box


class ClassSection(Section):
    """One class: ``words``, ``examples``, or both."""

    name: str | None = Field(None, description="the label of its detections; the words when left out")
    words: str | None = Field(None, description="what to find, in words, such as `red car`")
    examples: Examples | None = Field(None, description="what to find, shown on a reference image")
    threshold: Share | None = Field(None, description="score that a detection must exceed; the project's when left out")
    color: ColorValue = Field(
        None, description="colour of its masks and boxes, as #rrggbb or [red, green, blue]; of a palette when left out"
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.label.strip():
            raise ValueError("the class has no name\nHint: give it `words`, or a `name` and `examples`")
        if self.words is None and self.examples is None:
            raise ValueError(
                f"the class {self.label!r} has neither words nor example boxes\nHint: write `words: {self.label}`, or "
                "`examples: {image: …, positive: [[x0, y0, x1, y1]]}`"
            )
        if self.examples is not None and not any(self.examples.boxes()):
            raise ValueError(f"the examples of {self.label!r} have no box\nHint: add one, or take `examples` out")
        if self.words is None and self.examples and not self.examples.positive:
            raise ValueError(f"the class {self.label!r} has only negative boxes\nHint: add words or a positive box")
        try:
            prompt = self.prompt  # with its own checks: empty boxes, too many of them, empty words
            if not prompt.relative:
                check_unit(prompt.boxes, "`relative: true`")
        except PromptError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def label(self) -> str:
        """The name, else the words."""
        return (self.words if self.name is None else self.name) or ""

    @property
    def prompt(self) -> Prompt:
        """The words, and the boxes on the reference image."""
        examples = self.examples
        if examples is None:
            return Prompt(self.words)
        labels = (1,) * len(examples.positive) + (0,) * len(examples.negative)
        return Prompt(self.words, tuple(box for _, box in examples.boxes()), labels, examples.relative)


class ProjectFile(Section):
    """The classes of one project."""

    threshold: Share | None = Field(None, description="score that detections must exceed, of every class without one")
    classes: list[ClassSection] = Field(min_length=1)


DOCUMENT = Document(ProjectFile, ProjectError, "classes: [{words: person}]")


@dataclass(frozen=True)
class Project:
    """A checked project file: its settings, its path, and the line of each value."""

    settings: ProjectFile
    path: Path
    lines: Lines

    def location(self, *keys: str | int) -> str:
        """Return ``FILE:LINE: KEY`` of a value, for messages."""
        return self.lines.where(*keys)

    def image(self, examples: Examples) -> str:
        """Return the path or ``package:`` spec of a reference image."""
        if examples.image.startswith(PACKAGE):
            return examples.image
        return str(self.path.parent / Path(examples.image).expanduser())


def read_project(path: str | Path) -> Project:
    """Read and check a project file; :class:`ProjectError` with the wrong value, its line and the fix."""
    path = Path(path)
    text = DOCUMENT.read(path, hint=f"the smallest one is:  {DOCUMENT.smallest}")
    settings, lines = DOCUMENT.parse(text, str(path))
    project = Project(settings, path, lines)
    first_lines: dict[str, int] = {}
    for index, section in enumerate(settings.classes):
        if section.label in first_lines:
            raise ProjectError(
                f"{project.location('classes', index)}: the class {section.label!r} is defined twice "
                f"(first on line {first_lines[section.label]})",
                "give one of them another `name`",
            )
        first_lines[section.label] = lines.line("classes", index)
    return project


def project_schema() -> str:
    """Return the JSON schema of a project file for editors, as committed in ``project.schema.json``."""
    return json_schema(ProjectFile)
