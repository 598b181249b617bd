"""Prompts a detector with a concept data set and collects its answers.

The detector is a variant's engines or float32 PyTorch (:data:`Finder`), so that both are measured alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from sam3_runtime.core.errors import Sam3Error, SourceError
from sam3_runtime.evaluation.data_set import ConceptData, ConceptImage, DataSetError
from sam3_runtime.evaluation.metrics import MOST, Answer, xywh
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections, mask_to_rle
from sam3_runtime.imaging.preprocess import Image

FLOOR = 0.01
"""Least score of an answer; AP needs the whole ranking."""
_SEED = 0

PromptKind = Literal["words", "boxes"]
"""Whether prompts are the phrases, or an example box of one instance on the same image."""
Finder = Callable[[Sequence[Image], Sequence[Sequence[Prompt]], float], Iterable[Sequence[Detections]]]
"""Detects the prompts of each image, ``prompts[image][prompt]``, at scores above a floor: an entry for each image."""
Question = tuple[ConceptImage, dict[int, Prompt]]
"""An image and its prompts by category."""


def check_phrases(phrases: Iterable[str], count: Callable[[str], int], limit: int) -> None:
    """Raise :class:`DataSetError` for a phrase of more than ``limit`` tokens, as ``count`` counts them."""
    for phrase in phrases:
        if count(phrase) > limit:
            raise DataSetError(
                f"the phrase {phrase!r} has {count(phrase)} tokens, the model reads {limit}",
                "shorten the category's name",
            )


def questions_of(data: ConceptData, prompts: PromptKind = "words") -> list[Question]:
    """Return the prompts of each image; images without prompts are left out.

    By example box, only phrases with instances are prompted: one instance is chosen at random with a fixed seed. It is
    among those to be found. Raises :class:`DataSetError` if no image has a prompt.
    """
    if prompts == "words":
        found = [(image, {one: Prompt(data.categories[one].name) for one in image.prompted}) for image in data.images]
    else:
        found = [(image, _by_example(data, image)) for image in data.images]
    found = [(image, chosen) for image, chosen in found if chosen]
    if not found:
        raise DataSetError(f"{data.name} has no instance to take an example box from", "use --prompts words")
    return found


def _by_example(data: ConceptData, image: ConceptImage) -> dict[int, Prompt]:
    height, width = image.size
    chosen = {}
    for category in image.prompted:
        if not data.categories[category].exemplar:
            continue
        boxes = []
        for one in data.instances.get((image.id, category), ()):
            x0, y0, x1, y1 = one.box
            clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
            if not one.crowd and clipped[0] < clipped[2] and clipped[1] < clipped[3]:
                boxes.append(clipped)
        if boxes:
            draw = random.Random(f"{_SEED} {image.id} {category}")  # does not depend on the other prompts
            chosen[category] = Prompt(boxes=(draw.choice(boxes),))
    return chosen


def answer_all(
    questions: Sequence[Question],
    detect: Finder,
    batch: int,
    left_out: Callable[[ConceptImage, Sam3Error], None] | None = None,
) -> Iterator[list[Answer]]:
    """Yield the answers for each image, ``batch`` images at a time.

    An image that cannot be read, or is not the annotated one, gets an empty list and is passed to ``left_out``; without
    that, the error of :meth:`ConceptImage.read` is raised.
    """
    for start in range(0, len(questions), batch):
        chunk, images = [], []
        for image, prompts in questions[start : start + batch]:
            try:
                images.append(image.read())
                chunk.append((image, prompts))
            except (SourceError, DataSetError) as error:
                if left_out is None:
                    raise
                left_out(image, error)
                yield []
        found = detect(images, [list(prompts.values()) for _, prompts in chunk], FLOOR) if images else []
        for (image, prompts), detections in zip(chunk, found, strict=True):
            yield [_answer(image, number, one) for number, one in zip(prompts, detections, strict=True)]


def _answer(image: ConceptImage, category: int, found: Detections) -> Answer:
    best = np.argsort(-found.scores, kind="stable")[:MOST]
    masks = [mask_to_rle(found.masks[row]) for row in best]
    return Answer((image.id, category), found.scores[best], found.boxes[best], masks)


def as_coco_results(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """Return the answers in COCO's results format, for other evaluators."""
    return [
        {
            "image_id": answer.pair[0],
            "category_id": answer.pair[1],
            "bbox": [round(side, 3) for side in box],
            "score": round(float(score), 6),
            "segmentation": mask,
        }
        for answer in answers
        for score, box, mask in zip(answer.scores, xywh(answer.boxes).tolist(), answer.masks, strict=True)
    ]
