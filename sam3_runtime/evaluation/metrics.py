"""Accuracy of answers on a concept data set: COCO's AP, cgF1 of SAM 3's authors, false alarms on absent phrases.

AP is COCO's: the mean over phrases and over IoU 0.5 to 0.95, at most 100 answers for an image and phrase. cgF1 follows
the paper "SAM 3: Segment Anything with Concepts" and its authors' evaluator: of answers above the threshold,
100 · pmF1 · IL_MCC. pmF1 is the F1 of instances over all pairs with instances, matched one to one for the largest sum
of IoU, averaged over IoU 0.5 to 0.95. IL_MCC is Matthews' correlation, over all pairs, of "has an answer" with "has an
instance".
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sam3_runtime.evaluation.data_set import ConceptData, Pair, Rle
from sam3_runtime.records.records import Record
from sam3_runtime.tracking.assignment import assign

Areas = Literal["coco", "relative"]
"""The meaning of small, medium and large: COCO's pixels (32² and 96²), or the same shares of the image that these are
of a typical COCO image (640 x 480)."""
Kind = Literal["masks", "boxes"]
THRESHOLD = 0.5
"""Score of a positive answer for cgF1 and false alarms, as in the authors' evaluator."""
MOST = 100
"""Answers for an image and phrase that count, best first."""
IOUS = np.linspace(0.5, 0.95, 10)
_COCO_IMAGE = 640 * 480
_SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


@dataclass(frozen=True)
class Answer:
    """The K detections of one pair, best first. ``boxes`` [K, 4] are xyxy in pixels."""

    pair: Pair
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    masks: Sequence[Rle]


class AveragePrecision(Record):
    """From 0 to 1; null if there are no instances of that size."""

    ap: float | None = Field(description="mean over IoU 0.5 to 0.95")
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None


class ConceptF1(Record):
    """``cgf1`` from -100 to 100; it and ``il_mcc`` are null if no phrase is absent, or none present."""

    of: Kind
    cgf1: float | None
    pmf1: float | None = Field(description="from 0 to 1")
    il_mcc: float | None = Field(description="from -1 to 1")


class FalseAlarms(Record):
    """Absent phrases with an answer above the threshold; shares are null if no phrase is absent."""

    absent: int = Field(description="pairs of an image and an absent phrase")
    share: float | None = Field(description="of those pairs, with an answer above the threshold")
    images: int = Field(description="images that were prompted with an absent phrase")
    image_share: float | None = Field(description="of those images, with such an answer")


class Accuracy(Record):
    """Everything measured on one data set."""

    threshold: float
    areas: Areas
    pairs: int
    instances: int
    without_mask: int = Field(0, description="pairs left out where masks are measured: an instance has no mask")
    box: AveragePrecision
    mask: AveragePrecision | None
    concept: ConceptF1
    false_alarms: FalseAlarms


def measure(data: ConceptData, answers: Sequence[Answer], threshold: float, areas: Areas = "coco") -> Accuracy:
    """Return the accuracy of ``answers``, one for each prompted pair; pairs of ``data`` without one are ignored."""
    by_pair = {answer.pair: answer for answer in answers}
    masked = {pair: answer for pair, answer in by_pair.items() if data.knows_masks_of(pair)}
    return Accuracy(
        threshold=threshold,
        areas=areas,
        pairs=len(by_pair),
        instances=sum(not one.crowd for pair in by_pair for one in data.instances.get(pair, ())),
        without_mask=len(by_pair) - len(masked) if data.has_masks else 0,
        box=_average_precision(data, by_pair, "boxes", areas),
        mask=_average_precision(data, masked, "masks", areas) if data.has_masks and masked else None,
        concept=_concept_f1(data, by_pair, threshold, "masks" if data.has_masks else "boxes"),
        false_alarms=_false_alarms(data, by_pair, threshold),
    )


# --- average precision ------------------------------------------------------------------------------------------------


def _average_precision(data: ConceptData, answers: Mapping[Pair, Answer], kind: Kind, areas: Areas) -> AveragePrecision:
    from pycocotools.cocoeval import COCOeval

    scales = {
        image.id: 1.0 if areas == "coco" else _COCO_IMAGE / (image.size[0] * image.size[1]) for image in data.images
    }
    with redirect_stdout(io.StringIO()):  # COCOeval prints its progress
        truth = _as_coco(data, _truths(data, answers, scales))
        found = _as_coco(data, _results(answers, kind, scales))
        evaluator = COCOeval(truth, found, "segm" if kind == "masks" else "bbox")
        evaluator.params.imgIds = sorted({image for image, _ in answers})
        evaluator.params.catIds = sorted({category for _, category in answers})
        evaluator.params.areaRng = [list(limits) for limits in _SIZES.values()]
        evaluator.params.areaRngLbl = list(_SIZES)
        evaluator.params.maxDets = [MOST]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0]  # [IoU, recall, category, size]

    def mean(size: str = "all", iou: float | None = None) -> float | None:
        rows = slice(None) if iou is None else np.isclose(IOUS, iou)
        values = precision[rows, :, :, list(_SIZES).index(size)]
        known = values[values > -1]  # -1: no instances of that phrase and size
        return float(known.mean()) if known.size else None

    by_size = {size: mean(size) for size in ("small", "medium", "large")}
    return AveragePrecision(ap=mean(), ap50=mean(iou=0.5), ap75=mean(iou=0.75), **by_size)


def _as_coco(data: ConceptData, annotations: Iterator[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": image.id, "height": image.size[0], "width": image.size[1]} for image in data.images],
        "categories": [{"id": number} for number in data.categories],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, 1)],  # 0 means unmatched
    }
    made.createIndex()
    return made


def _truths(data: ConceptData, answers: Mapping[Pair, Answer], scales: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    for pair in answers:
        for one in data.instances.get(pair, ()):
            yield {
                "image_id": pair[0], "category_id": pair[1], "bbox": xywh(np.asarray([one.box]))[0].tolist(),
                "area": one.area * scales[pair[0]], "iscrowd": int(one.crowd), "segmentation": one.mask,
            }  # fmt: skip


def _results(answers: Mapping[Pair, Answer], kind: Kind, scales: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as coco

    for pair, answer in answers.items():
        boxes = xywh(answer.boxes)
        areas = coco.area(list(answer.masks)) if kind == "masks" and answer.masks else boxes[:, 2:].prod(axis=1)
        for score, box, area, mask in zip(answer.scores, boxes.tolist(), areas, answer.masks, strict=True):
            yield {
                "image_id": pair[0], "category_id": pair[1], "score": float(score), "iscrowd": 0, "bbox": box,
                "area": float(area) * scales[pair[0]], "segmentation": mask,
            }  # fmt: skip


# --- cgF1 -------------------------------------------------------------------------------------------------------------


def _concept_f1(data: ConceptData, answers: Mapping[Pair, Answer], threshold: float, kind: Kind) -> ConceptF1:
    hits = np.zeros(len(IOUS))
    found = wanted = 0
    present, positive = [], []  # by pair
    for pair, answer in answers.items():
        rows = np.flatnonzero(answer.scores > threshold).tolist()
        instances = [one for one in data.instances.get(pair, ()) if not one.crowd]
        present.append(bool(instances))
        positive.append(bool(rows))
        if instances and (kind == "boxes" or data.knows_masks_of(pair)):
            wanted, found = wanted + len(instances), found + len(rows)
            if kind == "masks":
                ious = _iou([answer.masks[row] for row in rows], [one.mask for one in instances])
            else:
                ious = _iou(xywh(answer.boxes[rows]), xywh(np.asarray([one.box for one in instances])))
            hits += (ious[assign(ious)][:, None] >= IOUS).sum(axis=0)
    pmf1 = float((2 * hits / (found + wanted)).mean()) if wanted else None
    mcc = _matthews(present, positive)
    cgf1 = None if pmf1 is None or mcc is None else 100 * pmf1 * mcc
    return ConceptF1(of=kind, cgf1=cgf1, pmf1=pmf1, il_mcc=mcc)


def xywh(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return boxes xyxy [K, 4] in COCO's form: left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)


def _iou(found: Any, instances: Any) -> NDArray[np.float64]:
    """[K, N], of run-length encoded masks or of boxes xywh."""
    from pycocotools import mask as coco

    if not len(found):
        return np.zeros((0, len(instances)))
    return np.asarray(coco.iou(found, instances, [0] * len(instances)))


def _matthews(present: Sequence[bool], positive: Sequence[bool]) -> float | None:
    """Correlation of two binary variables; None if ``present`` is constant, 0 if only ``positive`` is."""
    if len(set(present)) < 2:
        return None
    return float(np.corrcoef(present, positive)[0, 1]) if len(set(positive)) > 1 else 0.0


# --- false alarms -----------------------------------------------------------------------------------------------------


def _false_alarms(data: ConceptData, answers: Mapping[Pair, Answer], threshold: float) -> FalseAlarms:
    alarms = {
        pair: bool((answer.scores > threshold).any()) for pair, answer in answers.items() if pair not in data.instances
    }
    images = {image for image, _ in alarms}
    alarmed = {image for (image, _), alarm in alarms.items() if alarm}
    return FalseAlarms(
        absent=len(alarms),
        share=sum(alarms.values()) / len(alarms) if alarms else None,
        images=len(images),
        image_share=len(alarmed) / len(images) if images else None,
    )
