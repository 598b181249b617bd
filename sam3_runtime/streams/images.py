"""Images on their way from sources to a model: what a run hands over. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sam3_runtime.imaging.preprocess import Image

Take = Callable[[bool], Sequence[Image]]
"""Gives the next batch of images; told whether it may wait for one."""


class SourceImage(NamedTuple):
    """An image of a run over sources: the index of its ``source``, its ``number`` there, from 0 and dropped ones
    included, and its time in the source in ``seconds``. A model that keeps something by source needs them."""

    image: Image
    source: int
    number: int
    seconds: float


TakeFromSources = Callable[[bool], Sequence[SourceImage]]
"""Likewise with where each image is from."""


def images_of(take: TakeFromSources) -> Take:
    """For a model to which every image is the first."""
    return lambda wait: [one.image for one in take(wait)]
