"""Measures the four parts, each alone: the vision encoder, the text and the geometry encoder, the decoder both ways.

Inputs are where the part reads them (pixels and features on the device), and the device is waited for before each
reading of the clock. What a part's call does on the host is inside: for the decoder, arranging the prompts' tokens,
handing them over, and fetching everything but the masks. Knows no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sam3_runtime.families.sam3.features import features_of
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.timing import timed_windows
from sam3_runtime.records.measurements import PartBench, latency, stable

MANY = 8
"""Prompts on one image, and images for one prompt, that the decoder is compared at (the batch, where it is less)."""


def measure_parts(pipeline: Pipeline, frames: Sequence[Image], settings: Mapping[str, Any]) -> tuple[PartBench, ...]:
    """Each part at one image (or prompt) and at the full batch; ``frames`` are the pictures looked at."""

    def timed(part: str, call: Callable[[], object], images: int, prompts: int = 0) -> PartBench:
        windows = timed_windows(call, settings, pipeline.device.synchronize)
        every = [sample for window in windows for sample in window]
        return PartBench(part=part, images=images, prompts=prompts, latency=latency(every), stable=stable(windows))

    limit = pipeline.batch
    many = min(MANY, limit)
    words = list(settings["prompts"])
    found: list[PartBench] = []
    for prompts in sorted({1, many}):
        found.append(timed("text-encoder", _text_call(pipeline, words, prompts), 0, prompts))
    pipeline.engines["text-encoder"].release()
    for images in sorted({1, limit}):
        pixels = pipeline.preprocess(_pictures(frames, images))
        found.append(timed("vision-encoder", partial(pipeline.encode_images, pixels), images))
    features = pipeline.encode_images(pipeline.preprocess(_pictures(frames, many)))
    size = (frames[0].shape[0], frames[0].shape[1])
    box = Prompt("visual", ((0.0, 0.0, size[1] / 2, size[0] / 2),))
    for prompts in sorted({1, many}):
        boxes = partial(pipeline.encode_boxes, [box] * prompts, size, features_of(features, 0, 1))
        found.append(timed("geometry-encoder", boxes, 1, prompts))
    token = pipeline.encode_texts(words[:1])[0]
    for images, prompts in sorted({(1, 1), (1, many), (many, many)}):
        decode = partial(pipeline.decode, features_of(features, 0, images), [token] * prompts)
        found.append(timed("decoder", decode, images, prompts))
    return tuple(found)


def _text_call(pipeline: Pipeline, words: Sequence[str], count: int) -> Callable[[], object]:
    """A call of the text encoder itself: the pipeline remembers texts, and would not run it again."""
    engine = pipeline.engines["text-encoder"]
    tokens = pipeline.tokenizer([words[place % len(words)] for place in range(count)])
    feeds = engine.cast({"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask})
    return lambda: engine.infer(feeds)


def _pictures(frames: Sequence[Image], count: int) -> list[Image]:
    return [frames[place % len(frames)] for place in range(count)]
