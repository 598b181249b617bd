"""Reads a project file: which classes to look for, each by words, by example boxes on a reference image, or by both.

    classes:
      - words: person
      - name: cup
        words: coffee cup
        threshold: 0.4
        color: "#e63c3c"
        examples: {image: photos/shelf.png, positive: [[10, 20, 90, 120]], negative: [[200, 20, 260, 110]]}

Owns the schema, and what makes a class one that can be looked for. Knows no engine, and reads no image.
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
from sam3_runtime.core.placed_yaml import Document, Places, dotted, nearest_place
from sam3_runtime.families.sam3.prompts import Box, Prompt, PromptError
from sam3_runtime.imaging.drawing import Color
from sam3_runtime.media.source_files import PACKAGE
from sam3_runtime.plan.sections import NonNegative, Section, Share
from sam3_runtime.plan.settings import json_schema

_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_HOW = 'write "#rrggbb" in quotes, or [red, green, blue] from 0 to 255'


def _color(value: Any) -> Color:
    """Red, green and blue of ``#rrggbb`` or a list; ValueError for anything else."""
    if value is None:
        raise ValueError(f"the colour is empty: outside quotes, # begins a comment\nHint: {_HOW}")
    if isinstance(value, str) and (match := _HEX.fullmatch(value.strip())):
        red, green, blue = (int(part, 16) for part in match.groups())
        return red, green, blue
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_byte, value)):
        return value[0], value[1], value[2]
    raise ValueError(f"{value!r} is no colour\nHint: {_HOW}")


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _four_numbers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError(f"{value!r} is no box\nHint: write [x0, y0, x1, y1] in pixels of the reference image")
    return value


ColorValue = Annotated[
    Color | None,
    BeforeValidator(_color),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_HEX.pattern}$"},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 255},
                    "minItems": 3,
                    "maxItems": 3,
                },
            ]
        }
    ),
]
BoxValue = Annotated[tuple[NonNegative, NonNegative, NonNegative, NonNegative], BeforeValidator(_four_numbers)]


class Examples(Section):
    """Boxes x0, y0, x1, y1 in pixels of one image, upright as its EXIF data says."""

    image: str = Field(description="the reference image: a path, relative to this file, or package:NAME/PATH")
    positive: list[BoxValue] = Field([], description="boxes that show the class")
    negative: list[BoxValue] = Field([], description="boxes that show something else")

    def boxes(self) -> Iterator[tuple[tuple[str, int], Box]]:
        """Every box, positive ones first, with its place in this section."""
        for key, boxes in (("positive", self.positive), ("negative", self.negative)):
            for index, box in enumerate(boxes):
                yield (key, index), box


class ClassSection(Section):
    """One class: ``words``, ``examples``, or both."""

    name: str | None = Field(None, description="what results are labelled with; the words when left out")
    words: str | None = Field(None, description="what to find, in words, such as `red car`")
    examples: Examples | None = Field(None, description="what to find, shown on a reference image")
    threshold: Share | None = Field(None, description="score that a detection must exceed; the project's when left out")
    color: ColorValue = Field(
        None, description="colour of its masks and boxes, as #rrggbb or [red, green, blue]; of a palette when left out"
    )

    @model_validator(mode="after")
    def _can_be_looked_for(self) -> Self:
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
            raise ValueError(
                f"the class {self.label!r} has negative boxes alone\nHint: say what it is: words or a positive box"
            )
        try:
            self.prompt  # noqa: B018 (its own checks: empty boxes, too many of them, empty words)
        except PromptError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def label(self) -> str:
        """The name, else the words."""
        return (self.words if self.name is None else self.name) or ""

    @property
    def prompt(self) -> Prompt:
        """The words, and the boxes in pixels of the reference image."""
        examples = self.examples
        if examples is None:
            return Prompt(self.words)
        labels = (1,) * len(examples.positive) + (0,) * len(examples.negative)
        return Prompt(self.words, tuple(box for _, box in examples.boxes()), labels)


class ProjectFile(Section):
    """What to look for: the classes of one project."""

    threshold: Share | None = Field(None, description="score that detections must exceed, of every class without one")
    classes: list[ClassSection] = Field(min_length=1)


DOCUMENT = Document(ProjectFile, ProjectError, "classes: [{words: person}]")


@dataclass(frozen=True)
class Project:
    """A checked project file: its settings, where it is, and the line of each value."""

    settings: ProjectFile
    path: Path
    places: Places

    def place(self, *keys: str | int) -> str:
        """``FILE:LINE: KEY`` of a value, for messages."""
        return f"{self.path}:{nearest_place(self.places, keys)}: {dotted(keys)}"

    def image(self, examples: Examples) -> str:
        """Where a reference image is, as :func:`sam3_runtime.media.sources.load_image` takes it."""
        if examples.image.startswith(PACKAGE):
            return examples.image
        return str(self.path.parent / Path(examples.image).expanduser())


def read_project(path: str | Path) -> Project:
    """Read and check a project file; :class:`ProjectError` with the value, its line and the fix."""
    path = Path(path)
    text = DOCUMENT.read(path, hint=f"the smallest one is:  {DOCUMENT.smallest}")
    settings, places = DOCUMENT.parse(text, str(path))
    project = Project(settings, path, places)
    lines: dict[str, int] = {}
    for index, section in enumerate(settings.classes):
        if section.label in lines:
            raise ProjectError(
                f"{project.place('classes', index)}: the class {section.label!r} is there twice "
                f"(first on line {lines[section.label]})",
                "give one of them another `name`",
            )
        lines[section.label] = nearest_place(places, ("classes", index))
    return project


def project_schema() -> str:
    """The JSON schema of a project file for editors, as committed in ``project.schema.json``."""
    return json_schema(ProjectFile)
