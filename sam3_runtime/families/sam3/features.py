"""Features of images and prompts, and their arrangement into as few decoder calls as possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3_runtime.engines.running.base import AnyArray, Array

Features = Mapping[str, AnyArray]
"""Vision features of B images by output name. On a GPU these are views, which the next run overwrites."""


@dataclass(frozen=True)
class Embedding:
    """The decoder's input for one prompt: features [L, C], and which of them are valid, bool [L]."""

    features: Array
    mask: Array


@dataclass(frozen=True)
class EncodedPrompt:
    """An encoded prompt, which can be detected on any image. ``name`` is the label of its results."""

    name: str
    tokens: Embedding


def concatenate(text: Embedding, boxes: Embedding) -> Embedding:
    """Return the features of a prompt with words and boxes: text first, in the type of the text features."""
    features = np.concatenate([text.features, boxes.features.astype(text.features.dtype, copy=False)])
    return Embedding(features, np.concatenate([text.mask, boxes.mask]))


def prompt_rows(prompts: Sequence[Embedding]) -> dict[str, Array]:
    """Return ``prompt_features`` [P, L, C] and ``prompt_mask`` [P, L] of P prompts, padded to the longest."""
    longest, channels = max(len(one.mask) for one in prompts), prompts[0].features.shape[1]
    features = np.zeros((len(prompts), longest, channels), prompts[0].features.dtype)
    mask = np.zeros((len(prompts), longest), np.bool_)
    for row, one in enumerate(prompts):
        features[row, : len(one.mask)] = one.features
        mask[row, : len(one.mask)] = one.mask
    return {"prompt_features": features, "prompt_mask": mask}


@dataclass(frozen=True)
class DecoderCall:
    """One run of the decoder: features of one image, or of one for each row, and the (image, prompt) of each row."""

    features: Features
    tokens: list[Embedding]
    rows: list[tuple[int, int]]


def decoder_calls(features: Features, tokens: list[list[Embedding]], limit: int) -> Iterator[DecoderCall]:
    """Yield the calls for ``tokens[image][prompt]``, of at most ``limit`` rows each.

    A call has all prompts of one image (N = 1: its features once) or all images of one prompt (N = P), whichever needs
    fewer calls; on a tie the first, which transfers less.
    """
    images, prompts = len(tokens), len(tokens[0])
    by_image = [(image, chunk) for image in range(images) for chunk in _chunks(prompts, limit)]
    by_prompt = [(prompt, chunk) for prompt in range(prompts) for chunk in _chunks(images, limit)]
    if len(by_image) <= len(by_prompt):
        calls = [((image, image + 1), [(image, prompt) for prompt in chunk]) for image, chunk in by_image]
    else:
        calls = [((chunk.start, chunk.stop), [(image, prompt) for image in chunk]) for prompt, chunk in by_prompt]
    for (start, stop), rows in calls:
        yield DecoderCall(features_of(features, start, stop), [tokens[image][prompt] for image, prompt in rows], rows)


def _chunks(count: int, limit: int) -> list[range]:
    return [range(start, min(start + limit, count)) for start in range(0, count, limit)]


def features_of(features: Features, start: int, stop: int) -> Features:
    """Return views of the features of images ``start`` to ``stop``; the position table is shared by all images."""
    return {name: array if name == "fpn_pos_2" else array[start:stop] for name, array in features.items()}
