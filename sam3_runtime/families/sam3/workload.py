"""The benchmark's workload of SAM3: rounds of images through :meth:`Pipeline.detect`, and the four parts, each alone.

Words are encoded in the warm-up, as in a deployment. With weights that detect nothing (`random`), each prompt keeps its
best masks instead, so that postprocessing has work. A part's inputs are in the memory that it reads (pixels and
features on the device). Work of a part's call on the host is included: for the decoder, arranging the prompts' tokens,
passing them, and fetching all outputs but the masks. The caller measures the time; independent of the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sam3_runtime.families.sam3.features import features_of
from sam3_runtime.families.sam3.pipeline import THRESHOLD, Pipeline
from sam3_runtime.families.sam3.prefetch import StageHook
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.measure.judging import PartCall

MANY = 8
"""Prompts on one image, and images of one prompt, at which the decoder is compared (the batch, where it is less)."""


class Workload:
    """See the module. ``settings`` are those of ``bench:``; ``prompts`` is how many each image has."""

    def __init__(self, pipeline: Pipeline, settings: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._words = list(settings["prompts"])
        self._masks: int = settings["masks"]
        self._top: int | None = None
        self.prompts = len(self._words)

    def warm_up(self, images: Sequence[Image]) -> None:
        """Encode the words, and check on the first image whether the weights detect anything."""
        found = self._pipeline.detect(images, self._words, threshold=THRESHOLD)
        self._top = None if any(len(one.scores) for one in found[0]) else self._masks

    def round(self, images: Sequence[Image], stages: StageHook | None = None) -> int:
        """Run from preprocessing to postprocessing; return the number of masks."""
        found = self._pipeline.detect(images, self._words, top=self._top, stages=stages)
        return sum(len(one.scores) for image in found for one in image)

    def parts(self, frames: Sequence[Image]) -> Iterator[PartCall]:
        """Yield each part at one image (or prompt) and at the full batch, on ``frames``."""
        pipeline, limit = self._pipeline, self._pipeline.batch
        many = min(MANY, limit)
        for prompts in sorted({1, many}):
            yield PartCall("text-encoder", 0, prompts, self._text_call(prompts))
        pipeline.engines["text-encoder"].release()
        for images in sorted({1, limit}):
            pixels = pipeline.preprocess(_images(frames, images))
            yield PartCall("vision-encoder", images, 0, partial(pipeline.encode_images, pixels))
        features = pipeline.encode_images(pipeline.preprocess(_images(frames, many)))
        size = (frames[0].shape[0], frames[0].shape[1])
        box = Prompt("visual", ((0.0, 0.0, size[1] / 2, size[0] / 2),))
        for prompts in sorted({1, many}):
            boxes = partial(pipeline.encode_boxes, [box] * prompts, size, features_of(features, 0, 1))
            yield PartCall("geometry-encoder", 1, prompts, boxes)
        token = pipeline.encode_texts(self._words[:1])[0]
        for images, prompts in sorted({(1, 1), (1, many), (many, many)}):
            decode = partial(pipeline.decode, features_of(features, 0, images), [token] * prompts)
            yield PartCall("decoder", images, prompts, decode)

    def _text_call(self, count: int) -> Callable[[], object]:
        """Return a call of the text encoder itself: the pipeline caches texts, and would not run it again."""
        engine = self._pipeline.engines["text-encoder"]
        tokens = self._pipeline.tokenizer([self._words[index % len(self._words)] for index in range(count)])
        feeds = engine.cast({"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask})
        return lambda: engine.infer(feeds)


def _images(frames: Sequence[Image], count: int) -> list[Image]:
    return [frames[index % len(frames)] for index in range(count)]
