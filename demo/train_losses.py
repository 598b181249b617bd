"""The losses: class, presence and box at every decoder layer, masks of matched queries, and dense losses per pixel.

Classes are learnt by quality focal loss: the target of a matched query's score is the IoU of its box, so that scores
rank detections by quality, which AP rewards. Rows without an object train presence above all: their class loss has a
small weight, since a query only has to distinguish objects in images that contain the prompted one (class and presence
are multiplied). Outputs and losses are float32; only the product that makes the masks may have a lower precision.
Independent of scenes and of the model's internals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.train_data import PIXEL_CLASSES, Batch
from demo.train_matching import match_one_to_many, match_one_to_one, targets_of_queries
from demo.train_model import Answers, Outputs, Trainee

Losses = dict[str, Tensor]

WEIGHTS = {
    "class": 2.0, "l1": 5.0, "giou": 2.0, "presence": 2.0, "mask": 10.0, "dice": 5.0,
    "many_class": 2.0, "many_l1": 5.0, "many_giou": 2.0, "semantic": 5.0, "semantic_dice": 2.0, "pixels": 2.0,
}  # fmt: skip
"""The weight of each loss; a loss of the decoder layers is the mean over layers."""
EACH = 4
"""Queries per target in the one-to-many group."""
_ABSENT_CLASS = 0.25  # weight of the class loss in rows without an object
_COST_CLASS, _COST_L1, _COST_GIOU = 2.0, 5.0, 2.0


@dataclass(frozen=True)
class Truth:
    """The targets of each row, for all layers: ``boxes`` [R, T, 4] xyxy 0..1, ``valid`` bool [R, T]."""

    boxes: Tensor
    valid: Tensor


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU of xyxy boxes, which broadcast: [..., 4] and [..., 4] to [...] each."""
    first_area = _product(first[..., 2:] - first[..., :2])
    second_area = _product(second[..., 2:] - second[..., :2])
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    common = _product((high - low).clamp(min=0))
    union = (first_area + second_area - common).clamp(min=1e-7)
    low, high = torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    around = _product(high - low).clamp(min=1e-7)
    iou = common / union
    return iou, iou - (around - union) / around


def _product(sides: Tensor) -> Tensor:
    """Return width times height of [..., 2]. The gradient of ``prod`` would synchronise with the host."""
    return sides[..., 0] * sides[..., 1]


def _centred(boxes: Tensor) -> Tensor:
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


@torch.no_grad()
def matching_cost(answers: Answers, truth: Truth) -> Tensor:
    """Return the cost of matching each target to each query, [L, R, T, Q]: class, L1 and GIoU, as in DETR."""
    score = answers.logits.sigmoid()
    focal = 0.25 * (1 - score) ** 2 * -(score + 1e-8).log() - 0.75 * score**2 * -(1 - score + 1e-8).log()
    target, box = truth.boxes[None, :, :, None], answers.boxes[:, :, None]
    distance = (_centred(target) - _centred(box)).abs().sum(-1)
    return _COST_CLASS * focal[:, :, None] + _COST_L1 * distance - _COST_GIOU * overlaps(target, box)[1]


def _group(answers: Answers, truth: Truth, of_query: Tensor) -> Losses:
    """Return class and box losses of one group of queries. ``of_query`` [L, R, Q]: the target of each, or −1."""
    matched = of_query >= 0
    index = of_query.clamp(min=0)[..., None].expand(-1, -1, -1, 4)
    target = truth.boxes.expand(len(of_query), -1, -1, -1).gather(2, index)
    iou, giou = overlaps(answers.boxes, target)
    count = matched.sum().clamp(min=1)

    quality = torch.where(matched, iou.detach().clamp(min=0), 0)
    gap = (quality - answers.logits.sigmoid()).abs().detach() ** 2
    focal = gap * F.binary_cross_entropy_with_logits(answers.logits, quality, reduction="none")
    present = truth.valid.any(1)
    row = torch.where(present, 1.0, _ABSENT_CLASS)[None, :, None]
    l1 = (_centred(answers.boxes) - _centred(target)).abs().sum(-1)
    return {
        "class": (focal * row).sum() / count,
        "l1": torch.where(matched, l1, 0).sum() / count,
        "giou": torch.where(matched, 1 - giou, 0).sum() / count,
    }


def _mask_losses(trainee: Trainee, outputs: Outputs, batch: Batch, choice: Tensor) -> Losses:
    """Return BCE and dice of the matched queries' masks at every layer. ``choice`` [L, R, T]: the query of each target.

    Masks are compared at the model's output resolution. Targets are shares of cells, so that an enlarged mask, cut at
    one half, has its edge at the edge of the object.
    """
    query = choice[:, batch.asked].gather(2, batch.slots.expand(len(choice), -1, -1))  # [L, M, P]
    of_layers = zip(outputs.kept.hidden, query.clamp(min=0), strict=True)
    hidden = torch.stack([one[batch.asked[:, None], of_slot] for one, of_slot in of_layers], 2)  # [M, P, L, C]
    logits = trainee.masks(outputs.pixels, hidden.flatten(1, 2)).float().view(*hidden.shape[:3], -1)
    target = batch.masks.flatten(2)[:, :, None].expand_as(logits)
    weight = ((query >= 0) & batch.slots_valid).permute(1, 2, 0).float()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)
    count = weight.sum().clamp(min=1)
    return {"mask": (bce * weight).sum() / count, "dice": (_dice(logits, target) * weight).sum() / count}


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − Dice over the last dimension; squares in the denominator make soft targets their own optimum."""
    score = logits.sigmoid()
    common = 2 * (score * target).sum(-1)
    return 1 - (common + 1) / (score.square().sum(-1) + target.square().sum(-1) + 1)


def _dense_losses(outputs: Outputs, batch: Batch) -> Losses:
    """Return the losses without matching: all objects of a row, and shape and colour of each quarter of a patch."""
    semantic, everything = outputs.semantic.float().flatten(1), batch.everything.flatten(1)
    weight = batch.asked_valid / batch.asked_valid.sum().clamp(min=1)
    bce = F.binary_cross_entropy_with_logits(semantic, everything, reduction="none").mean(-1)
    shapes, colours = torch.split(outputs.pixel_logits.float(), list(PIXEL_CLASSES), 1)
    return {
        "semantic": (bce * weight).sum(),
        "semantic_dice": (_dice(semantic, everything) * weight).sum(),
        "pixels": F.cross_entropy(shapes, batch.labels_of_pixels[:, 0])
        + F.cross_entropy(colours, batch.labels_of_pixels[:, 1]),
    }


def losses(trainee: Trainee, outputs: Outputs, batch: Batch) -> Losses:
    """Return every loss by name, unweighted; training minimises their sum with ``WEIGHTS``."""
    truth = Truth(batch.boxes, batch.valid)
    layers, rows, queries = outputs.kept.logits.shape
    everywhere = truth.valid.repeat(layers, 1)
    cost = matching_cost(outputs.kept, truth).flatten(0, 1)
    choice = match_one_to_one(cost, everywhere)
    of_query = targets_of_queries(choice, queries).view(layers, rows, queries)
    present = truth.valid.any(1).float().expand(layers, -1)
    result = _group(outputs.kept, truth, of_query)
    result["presence"] = F.binary_cross_entropy_with_logits(outputs.kept.presence, present)
    result |= _mask_losses(trainee, outputs, batch, choice.view(layers, rows, -1))
    result |= _dense_losses(outputs, batch)
    if outputs.many is not None:
        cost = matching_cost(outputs.many, truth).flatten(0, 1)
        several = match_one_to_many(cost, everywhere, EACH).view(layers, rows, -1)
        result |= {f"many_{name}": value for name, value in _group(outputs.many, truth, several).items()}
    return result


def total(parts: Losses) -> Tensor:
    return torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
