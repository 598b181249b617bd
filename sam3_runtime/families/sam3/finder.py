"""Prompts the engines of a variant with other prompts for each image, as an evaluation does.

Calls the pipeline's parts in their order: images go through the vision encoder in full batches, and all prompts of one
image through the decoder together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sam3_runtime.evaluation.questions import Finder, check_phrases
from sam3_runtime.families.sam3.features import Features, decoder_calls, features_of
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.postprocess import detections_of
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections, Size
from sam3_runtime.imaging.preprocess import Image


def finder_of(pipeline: Pipeline, phrases: Sequence[str]) -> Finder:
    """Return the engines as a finder. All ``phrases`` are encoded first.

    :class:`DataSetError` for a phrase that has more tokens than the model takes.
    """
    check_phrases(phrases, pipeline.tokenizer.count, pipeline.tokenizer.length)
    pipeline.encode_texts(phrases)

    def detect(
        images: Sequence[Image], prompts: Sequence[Sequence[Prompt]], floor: float
    ) -> Iterator[list[Detections]]:
        features = pipeline.encode_images(pipeline.preprocess(images))
        for index, (image, own) in enumerate(zip(images, prompts, strict=True)):
            size = (image.shape[0], image.shape[1])
            yield _detect_one(pipeline, features_of(features, index, index + 1), size, own, floor)

    return detect


def _detect_one(
    pipeline: Pipeline, features: Features, size: Size, prompts: Sequence[Prompt], floor: float
) -> list[Detections]:
    tokens = pipeline.encode_prompts(prompts, [size], features)
    found: list[Detections] = []
    for call in decoder_calls(features, tokens, pipeline.engine("decoder").limit("P")):
        outputs = pipeline.decode(call.features, call.tokens)
        found += [
            detections_of(
                outputs, row, size, prompt=prompts[index].name, prompt_index=index, threshold=floor,
                begin=pipeline.device.begin_masks,
            )
            for row, (_, index) in enumerate(call.rows)
        ]  # fmt: skip
    return found
