"""Batches of images for a model. Independent of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sam3_runtime.imaging.preprocess import Image

Take = Callable[[bool], Sequence[Image]]
"""Returns the next batch of images; the argument is whether it may wait for one."""


class SourceImage(NamedTuple):
    """An image of a run over sources, for a model with a state for each source.

    ``source`` is the index of its source, ``number`` its number there (from 0, dropped ones included), and ``seconds``
    its time in the source.
    """

    image: Image
    source: int
    number: int
    seconds: float


TakeFromSources = Callable[[bool], Sequence[SourceImage]]
"""As :data:`Take`, with the source of each image."""


def images_of(take: TakeFromSources) -> Take:
    """Return ``take`` without the sources, for a model without a state."""
    return lambda wait: [one.image for one in take(wait)]
