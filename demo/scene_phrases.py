"""Samples prompts for a scene: present and absent phrases, and example boxes. No image is needed.

A phrase names a shape and a colour ("red circle"), a shape ("circle") or a colour ("red object"), and means every
object that it describes. An example box means every object of its shape and colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from demo.scene_layouts import COLOURS, Layout
from demo.scene_shapes import SHAPES

ABSENT_SHARE = 1 / 3
_HARD_SHARE = 0.75  # of absent phrases: both the shape and the colour are in the scene, but not together
_ANY = "object"

_T = TypeVar("_T")
Class = tuple[str, str]
"""A shape and a colour."""


class Classed(Protocol):
    """An object, with the attributes that phrases need."""

    @property
    def shape(self) -> str: ...
    @property
    def colour(self) -> str: ...


class Peopled(Protocol):
    """A scene, with the attributes that phrases need."""

    @property
    def things(self) -> Sequence[Classed]: ...


@dataclass(frozen=True)
class Phrase:
    """Words, and the indices of the objects that they name: none for an absent phrase."""

    text: str
    things: tuple[int, ...]


@dataclass(frozen=True)
class ExampleBoxes:
    """The indices of the objects whose boxes are examples, and of all objects that these boxes mean."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    things: tuple[int, ...]


def classes(scene: Layout | Peopled) -> list[Class]:
    """Return the shape and colour of each object, in order."""
    if isinstance(scene, Layout):
        names = tuple(COLOURS)
        pairs = zip(scene.things["shape"].tolist(), scene.things["colour"].tolist(), strict=True)
        return [(SHAPES[shape], names[colour]) for shape, colour in pairs]
    return [(thing.shape, thing.colour) for thing in scene.things]


def phrases_of(shape: str, colour: str) -> tuple[str, str, str]:
    """Return the phrases that describe an object: colour and shape, shape alone, colour alone."""
    return f"{colour} {shape}", shape, f"{colour} {_ANY}"


def every_phrase() -> list[str]:
    """Return all phrases: pairs, then shapes, then colours."""
    pairs, shapes, colours = zip(*(phrases_of(s, c) for s in SHAPES for c in COLOURS), strict=True)
    return list(dict.fromkeys([*pairs, *shapes, *colours]))


def phrases(scene: Layout | Peopled, rng: np.random.Generator, count: int) -> list[Phrase]:
    """Sample ``count`` different phrases in random order, about a third absent; more if a scene has few objects."""
    named: dict[str, list[int]] = {}
    there = classes(scene)
    for index, one in enumerate(there):
        for text in phrases_of(*one):
            named.setdefault(text, []).append(index)
    shapes, colours = {shape for shape, _ in there}, {colour for _, colour in there}
    hard = [text for s in shapes for c in colours for text in phrases_of(s, c)[:1] if text not in named]
    absent = [text for text in every_phrase() if text not in named]

    wanted = int(rng.binomial(count, ABSENT_SHARE))
    present = _several(rng, sorted(named), count - wanted)
    wanted = count - len(present)
    untrue = _several(rng, sorted(hard), int(rng.binomial(wanted, _HARD_SHARE)))
    untrue += _several(rng, [text for text in absent if text not in untrue], wanted - len(untrue))
    chosen = [Phrase(text, tuple(named.get(text, ()))) for text in present + untrue]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def example_boxes(
    scene: Layout | Peopled, rng: np.random.Generator, negatives: int = 2, positives: int = 2
) -> ExampleBoxes:
    """Sample 1 to ``positives`` example objects of one class, and up to ``negatives`` of others, mostly similar ones.

    The scene must contain an object. In another scene the examples mean
    ``things_of(other, classes(scene)[example.positive[0]])``.
    """
    there = classes(scene)
    chosen = there[int(rng.integers(len(there)))]
    alike = things_of(scene, chosen)
    others = [index for index, one in enumerate(there) if one != chosen]
    near = [index for index in others if there[index][0] == chosen[0] or there[index][1] == chosen[1]]
    pool = near if near and rng.random() < _HARD_SHARE else others
    return ExampleBoxes(
        positive=tuple(_several(rng, alike, int(rng.integers(1, positives + 1)))),
        negative=tuple(_several(rng, pool, int(rng.integers(negatives + 1)))),
        things=tuple(alike),
    )


def things_of(scene: Layout | Peopled, one: Class) -> list[int]:
    """Return the indices of the objects of a class."""
    return [index for index, other in enumerate(classes(scene)) if other == one]


def _several(rng: np.random.Generator, some: Sequence[_T], count: int) -> list[_T]:
    """Sample ``count`` of them, or all if there are fewer, in random order."""
    return [some[index] for index in rng.permutation(len(some))[:count]]
