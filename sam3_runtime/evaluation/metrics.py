"""How well answers agree with a concept data set: COCO's AP, cgF1 of SAM 3's authors, false alarms on absent phrases.

Knows what was asked, what is there and what was answered; asks nothing itself, and knows no engine and no file.

AP is COCO's: the mean over phrases and over IoU 0.5 to 0.95, at most 100 answers a picture and phrase. cgF1 is that of
the paper "SAM 3: Segment Anything with Concepts", which its authors' evaluator computes too: answers above the
threshold alone, 100 · pmF1 · IL_MCC. pmF1 is the F1 of instances over all pairs where the phrase has some, matched one
to one for the largest sum of IoU, and averaged over IoU 0.5 to 0.95. IL_MCC is Matthews' correlation, over all pairs,
of "says that it is there" with "is there".
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
from sam3_runtime.imaging.postprocess import Size
from sam3_runtime.records.records import Record
from sam3_runtime.tracking.assignment import assign

Areas = Literal["coco", "relative"]
"""What small, medium and large mean: COCO's pixels (32² and 96²), or those shares of the picture that they are of a
typical picture of COCO's (640 x 480)."""
THRESHOLD = 0.5
"""Score that counts as found for cgF1 and false alarms, as in the authors' evaluator."""
MOST = 100
"""Answers a picture and phrase that count, best first."""
IOUS = np.linspace(0.5, 0.95, 10)
_COCO_PICTURE = 640 * 480
_SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


@dataclass(frozen=True)
class Answer:
    """What was found of one pair: K instances, best first. ``boxes`` [K, 4] are xyxy in pixels."""

    pair: Pair
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    masks: Sequence[Rle]


class AveragePrecision(Record):
    """From 0 to 1; null where there is nothing of that size to be found."""

    ap: float | None = Field(description="mean over IoU 0.5 to 0.95")
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None


class ConceptF1(Record):
    """``cgf1`` from -100 to 100; it and ``il_mcc`` are null where no phrase is absent, or none present."""

    of: Literal["masks", "boxes"]
    cgf1: float | None
    pmf1: float | None = Field(description="from 0 to 1")
    il_mcc: float | None = Field(description="from -1 to 1")


class FalseAlarms(Record):
    """Absent phrases for which something was found all the same; shares are null where no phrase is absent."""

    absent: int = Field(description="pairs of a picture and an absent phrase")
    share: float | None = Field(description="of those pairs that got an answer above the threshold")
    images: int = Field(description="pictures that were asked an absent phrase")
    image_share: float | None = Field(description="of those pictures in which any such phrase got an answer")


class Accuracy(Record):
    """Everything measured on one data set."""

    threshold: float
    areas: Areas
    pairs: int
    instances: int
    without_mask: int = Field(0, description="pairs left out where masks are measured: an instance of theirs has none")
    box: AveragePrecision
    mask: AveragePrecision | None
    concept: ConceptF1
    false_alarms: FalseAlarms


def measure(data: ConceptData, answers: Sequence[Answer], threshold: float, areas: Areas = "coco") -> Accuracy:
    """Hold ``answers``, one for each pair that was asked, against ``data``; pairs without one were not asked."""
    asked = {answer.pair: answer for answer in answers}
    there = {pair: data.instances[pair] for pair in asked if pair in data.instances}
    masked = {pair: answer for pair, answer in asked.items() if data.knows_masks_of(pair)}
    kind: Literal["masks", "boxes"] = "masks" if data.has_masks else "boxes"
    return Accuracy(
        threshold=threshold,
        areas=areas,
        pairs=len(asked),
        instances=sum(not one.crowd for listed in there.values() for one in listed),
        without_mask=len(asked) - len(masked) if data.has_masks else 0,
        box=_average_precision(data, asked, "boxes", areas),
        mask=_average_precision(data, masked, "masks", areas) if data.has_masks and masked else None,
        concept=_concept_f1(data, asked, threshold, kind),
        false_alarms=_false_alarms(data, asked, threshold),
    )


# --- average precision ------------------------------------------------------------------------------------------------


def _average_precision(
    data: ConceptData, asked: Mapping[Pair, Answer], kind: Literal["masks", "boxes"], areas: Areas
) -> AveragePrecision:
    from pycocotools.cocoeval import COCOeval

    scales = {image.id: _area_scale(image.size, areas) for image in data.images}
    with redirect_stdout(io.StringIO()):  # it reports its progress
        truth = _as_coco(data, list(_truths(data, asked, scales)))
        found = _as_coco(data, list(_results(asked, kind, scales)))
        judge = COCOeval(truth, found, "segm" if kind == "masks" else "bbox")
        judge.params.imgIds = sorted({image for image, _ in asked})
        judge.params.catIds = sorted({category for _, category in asked})
        judge.params.areaRng = [list(_SIZES[name]) for name in _SIZES]
        judge.params.areaRngLbl = list(_SIZES)
        judge.params.maxDets = [MOST]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0]  # [IoU, recall, category, size]

    def mean(size: str = "all", iou: float | None = None) -> float | None:
        rows = slice(None) if iou is None else np.isclose(IOUS, iou)
        values = precision[rows, :, :, list(_SIZES).index(size)]
        known = values[values > -1]  # -1: nothing of that phrase and size is there
        return float(known.mean()) if known.size else None

    return AveragePrecision(
        ap=mean(), ap50=mean(iou=0.5), ap75=mean(iou=0.75), small=mean("small"), medium=mean("medium"),
        large=mean("large"),
    )  # fmt: skip


def _area_scale(size: Size, areas: Areas) -> float:
    return 1.0 if areas == "coco" else _COCO_PICTURE / (size[0] * size[1])


def _as_coco(data: ConceptData, annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": image.id, "height": image.size[0], "width": image.size[1]} for image in data.images],
        "categories": [{"id": number} for number in data.categories],
        "annotations": [{"id": place, **one} for place, one in enumerate(annotations, 1)],  # 0 means unmatched
    }
    made.createIndex()
    return made


def _truths(data: ConceptData, asked: Mapping[Pair, Answer], scales: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    for pair in asked:
        for one in data.instances.get(pair, ()):
            x0, y0, x1, y1 = one.box
            yield {
                "image_id": pair[0], "category_id": pair[1], "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": one.area * scales[pair[0]], "iscrowd": int(one.crowd), "segmentation": one.mask,
            }  # fmt: skip


def _results(
    asked: Mapping[Pair, Answer], kind: Literal["masks", "boxes"], scales: Mapping[int, float]
) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as coco

    for pair, answer in asked.items():
        sizes = answer.boxes[:, 2:] - answer.boxes[:, :2]
        surfaces = coco.area(list(answer.masks)) if kind == "masks" and answer.masks else np.prod(sizes, axis=1)
        for score, box, size, area, mask in zip(
            answer.scores, answer.boxes, sizes, surfaces, answer.masks, strict=True
        ):
            yield {
                "image_id": pair[0], "category_id": pair[1], "score": float(score), "iscrowd": 0,
                "bbox": [*map(float, box[:2]), *map(float, size)], "area": float(area) * scales[pair[0]],
                "segmentation": mask,
            }  # fmt: skip


# --- cgF1 -------------------------------------------------------------------------------------------------------------


def _concept_f1(
    data: ConceptData, asked: Mapping[Pair, Answer], threshold: float, kind: Literal["masks", "boxes"]
) -> ConceptF1:
    hits = np.zeros(len(IOUS))
    found = wanted = 0
    said = np.zeros((2, 2), np.int64)  # [is there, is said to be there]
    for pair, answer in asked.items():
        kept = np.flatnonzero(answer.scores > threshold).tolist()
        there = [one for one in data.instances.get(pair, ()) if not one.crowd]
        said[int(bool(there)), int(bool(kept))] += 1
        if there and (kind == "boxes" or data.knows_masks_of(pair)):
            wanted, found = wanted + len(there), found + len(kept)
            if kind == "masks":
                ious = _iou([answer.masks[row] for row in kept], [one.mask for one in there])
            else:
                ious = _iou(xywh(answer.boxes[kept]), xywh(np.asarray([one.box for one in there])))
            hits += (_matched(ious)[:, None] >= IOUS).sum(axis=0)
    pmf1 = float((2 * hits / (found + wanted)).mean()) if wanted else None
    mcc = _matthews(said)
    cgf1 = None if pmf1 is None or mcc is None else 100 * pmf1 * mcc
    return ConceptF1(of=kind, cgf1=cgf1, pmf1=pmf1, il_mcc=mcc)


def xywh(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Boxes xyxy [K, 4] as COCO has them: left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)


def _iou(found: Any, there: Any) -> NDArray[np.float64]:
    """[K, N], of run-length encoded masks or of boxes xywh."""
    from pycocotools import mask as coco

    if not len(found):
        return np.zeros((0, len(there)))
    return np.asarray(coco.iou(found, there, [0] * len(there)))


def _matched(ious: NDArray[np.float64]) -> NDArray[np.float64]:
    """The IoU of each matched pair: matched one to one, for the largest sum."""
    return np.asarray(ious[assign(ious)])


def _matthews(said: NDArray[np.int64]) -> float | None:
    """Matthews' correlation of a table [is, says]; None where all or none is there, 0 where all get one answer."""
    if not said.sum(axis=1).all():
        return None
    (right_no, wrong_yes), (wrong_no, right_yes) = said.astype(np.float64)
    spread = np.sqrt(np.prod(said.sum(axis=0, dtype=np.float64)) * np.prod(said.sum(axis=1, dtype=np.float64)))
    return float((right_yes * right_no - wrong_yes * wrong_no) / spread) if spread else 0.0


# --- false alarms -----------------------------------------------------------------------------------------------------


def _false_alarms(data: ConceptData, asked: Mapping[Pair, Answer], threshold: float) -> FalseAlarms:
    alarms = {
        pair: bool((answer.scores > threshold).any()) for pair, answer in asked.items() if pair not in data.instances
    }
    images = {image for image, _ in alarms}
    alarmed = {image for (image, _), alarm in alarms.items() if alarm}
    return FalseAlarms(
        absent=len(alarms),
        share=sum(alarms.values()) / len(alarms) if alarms else None,
        images=len(images),
        image_share=len(alarmed) / len(images) if images else None,
    )
