"""Asks a finder everything that a concept data set asks, and measures its answers.

A finder is anything that finds prompts on pictures: a variant's engines (``engines.py``), or float32 PyTorch
(``export/accuracy.py``), so that both are measured alike. Knows neither.
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
"""Score from which an answer is kept for AP, which looks at the whole ranking."""
_SEED = 0

PromptKind = Literal["words", "boxes"]
"""Whether phrases are asked in words, or by an example box of one instance on the same picture."""
Finder = Callable[[Sequence[Image], Sequence[Sequence[Prompt]], float], Iterable[Sequence[Detections]]]
"""Finds on each picture the prompts that are meant for it, with all scores above a floor: an entry a picture."""
Question = tuple[ConceptImage, dict[int, Prompt]]
"""A picture and what it is asked, by category."""


def check_phrases(phrases: Iterable[str], count: Callable[[str], int], limit: int) -> None:
    """:class:`DataSetError` for a phrase that has more than ``limit`` tokens, as ``count`` counts them."""
    for phrase in phrases:
        if count(phrase) > limit:
            raise DataSetError(
                f"the phrase {phrase!r} has {count(phrase)} tokens, and the model takes {limit}",
                "shorten the category's name",
            )


def questions_of(data: ConceptData, prompts: PromptKind = "words") -> list[Question]:
    """What each picture is asked; pictures that are asked nothing are left out.

    By example box, only phrases that have instances can be asked: the box is drawn from these, always the same one. The
    instance that it shows is among those to be found. :class:`DataSetError` where no picture can be asked.
    """
    if prompts == "words":
        asked = [(image, {one: Prompt(data.categories[one].name) for one in image.prompted}) for image in data.images]
    else:
        asked = [(image, _by_example(data, image)) for image in data.images]
    found = [(image, chosen) for image, chosen in asked if chosen]
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
            draw = random.Random(f"{_SEED} {image.id} {category}")  # the same box whatever else is asked
            chosen[category] = Prompt(boxes=(draw.choice(boxes),))
    return chosen


def answer_all(
    questions: Sequence[Question],
    detect: Finder,
    batch: int,
    left_out: Callable[[ConceptImage, Sam3Error], None] | None = None,
) -> Iterator[list[Answer]]:
    """The answers to each picture's questions, ``batch`` pictures at a time; one list a picture.

    A picture that cannot be read, or is not the one that was annotated, gets none, and ``left_out`` is told; without
    it that is raised, as :meth:`ConceptImage.read` does.
    """
    for start in range(0, len(questions), batch):
        chunk, images = [], []
        for image, asked in questions[start : start + batch]:
            try:
                images.append(image.read())
            except (SourceError, DataSetError) as error:
                if left_out is None:
                    raise
                left_out(image, error)
                yield []
            else:
                chunk.append((image, asked))
        found = detect(images, [list(asked.values()) for _, asked in chunk], FLOOR) if images else []
        for (image, asked), detections in zip(chunk, found, strict=True):
            yield [_answer(image, number, one) for number, one in zip(asked, detections, strict=True)]


def _answer(image: ConceptImage, category: int, found: Detections) -> Answer:
    best = np.argsort(-found.scores, kind="stable")[:MOST]
    masks = [mask_to_rle(found.masks[row]) for row in best]
    return Answer((image.id, category), found.scores[best], found.boxes[best], masks)


def as_coco_results(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """COCO's results format: what other evaluators read."""
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
