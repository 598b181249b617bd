"""What the decoder reads of prompts and images, and how few calls it takes to go through all of them.

Knows shapes, and no engine: features may lie on the host or on a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3_runtime.engines.running.base import AnyArray, Array

Features = Mapping[str, AnyArray]
"""What the vision encoder says of B images, where it said it: on a GPU its next run writes it again."""


@dataclass(frozen=True)
class Tokens:
    """What the decoder reads of one prompt: features [L, C] and which of them count, bool [L]."""

    features: Array
    mask: Array


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt whose tokens are there: it is looked for on any image, and no encoder runs for it.

    ``name`` is what results are labelled with.
    """

    name: str
    tokens: Tokens


def joined(text: Tokens, boxes: Tokens) -> Tokens:
    """The tokens of a prompt that has words and boxes: text first, in the text's type."""
    features = np.concatenate([text.features, boxes.features.astype(text.features.dtype, copy=False)])
    return Tokens(features, np.concatenate([text.mask, boxes.mask]))


def prompt_rows(tokens: Sequence[Tokens]) -> dict[str, Array]:
    """``prompt_features`` [P, L, C] and ``prompt_mask`` [P, L] of P prompts; shorter ones are padded to the longest."""
    longest = max(len(one.mask) for one in tokens)
    channels = tokens[0].features.shape[1]
    features = np.zeros((len(tokens), longest, channels), tokens[0].features.dtype)
    mask = np.zeros((len(tokens), longest), np.bool_)
    for row, one in enumerate(tokens):
        features[row, : len(one.mask)] = one.features
        mask[row, : len(one.mask)] = one.mask
    return {"prompt_features": features, "prompt_mask": mask}


@dataclass(frozen=True)
class Call:
    """One run of the decoder: features of one image or of one for each row, and the image and prompt of each row."""

    features: Features
    tokens: list[Tokens]
    places: list[tuple[int, int]]


def arrange(features: Features, tokens: list[list[Tokens]], limit: int) -> Iterator[Call]:
    """All prompts of an image together (N = 1: its features are there once), or all images of a prompt (N = P).

    ``tokens[image][prompt]``; a call has at most ``limit`` rows. Either way every row is an image and a prompt: the
    fewer calls, the better; on a tie the first reads less.
    """
    images, prompts = len(tokens), len(tokens[0])
    by_image = [(image, chunk) for image in range(images) for chunk in _chunks(prompts, limit)]
    by_prompt = [(prompt, chunk) for prompt in range(prompts) for chunk in _chunks(images, limit)]
    if len(by_image) <= len(by_prompt):
        for image, chunk in by_image:
            places = [(image, prompt) for prompt in chunk]
            yield Call(features_of(features, image, image + 1), [tokens[image][prompt] for prompt in chunk], places)
    else:
        for prompt, chunk in by_prompt:
            places = [(image, prompt) for image in chunk]
            yield Call(
                features_of(features, chunk.start, chunk.stop), [tokens[image][prompt] for image in chunk], places
            )


def _chunks(count: int, limit: int) -> list[range]:
    return [range(start, min(start + limit, count)) for start in range(0, count, limit)]


def features_of(features: Features, start: int, stop: int) -> Features:
    """The features of some images, as views. The position table has one row for all."""
    return {name: array if name == "fpn_pos_2" else array[start:stop] for name, array in features.items()}
