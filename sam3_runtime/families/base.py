"""What a family of models tells the build: the axes that its variants differ by, and what they may be.

Names, matrices, the schema of ``variants.yaml`` and the ids of graphs and engines follow from the axes. Pure: standard
library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

BATCH = "batch"
"""The axis that every family has: images at once. Engines differ by it, graphs do not."""
EIGHT_BIT = ("int8", "fp8")
Place = Literal["folder", "file"]
Refusal = tuple[str, str]
"""What is wrong, and what to do."""


@dataclass(frozen=True)
class Axis:
    """One choice of a variant. ``letter`` stands for it in names (``q50``); ``default`` is what a matrix that leaves it
    out means, or None for the checkpoint's own; ``place`` says whether the folder or the file of a graph has it."""

    key: str
    letter: str
    default: int | None = None
    place: Place = "folder"


@dataclass(frozen=True)
class FamilySpec:
    """A family. ``axes`` are in the order in which a variant's name has them.

    ``own_values`` gives a checkpoint's own value of the axes without a default, from its dimensions; ``refuse`` says
    why a model of those dimensions cannot have such values, and nothing where it can.
    """

    name: str
    axes: tuple[Axis, ...]
    own_values: Callable[[Any], Mapping[str, int]]
    refuse: Callable[[Any, Mapping[str, int]], Refusal | None]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(axis.key for axis in self.axes)

    @cached_property
    def name_pattern(self) -> re.Pattern[str]:
        """Of a variant's name, with a group for each axis and one for ``quantize``."""
        numbers = "_".join(rf"{axis.letter}(?P<{axis.key}>[1-9]\d*)" for axis in self.axes)
        return re.compile(rf"{numbers}(?:_(?P<quantize>{'|'.join(EIGHT_BIT)}))?")

    def shown(self, values: Mapping[str, Any], place: Place | None = None) -> str:
        """The axes that ``values`` has, all or those of one place, as a name has them: ``b8_q50_r672``."""
        chosen = (axis for axis in self.axes if axis.key in values and place in (None, axis.place))
        return "_".join(f"{axis.letter}{values[axis.key]}" for axis in chosen)
