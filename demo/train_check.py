"""Checks the progress of training: AP50 of boxes, IoU of masks and false alarms on some held-out scenes.

Kinds of prompts are evaluated separately. Detections of all rows of a kind are ranked together, which is close to
COCO's evaluation but does not replace it; ``sam3-runtime evaluate`` computes COCO's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo.train_data import BOXED, WORDS, Batch
from demo.train_losses import overlaps
from demo.train_model import Outputs, Trainee

KINDS = ("words", *BOXED)
_ALARM = 0.5  # score from which an answer to an absent prompt is a false alarm
_LEAST_IOU = 0.5


@dataclass(frozen=True)
class _Row:
    """The detections of one row, best first: which of them found a target, and the number of targets."""

    scores: NDArray[np.float64]
    found: NDArray[np.bool_]
    targets: int
    mask_ious: tuple[float, ...]


@torch.no_grad()
def check(trainee: Trainee, batches: list[Batch]) -> dict[str, float]:
    """Return ``<kind>_ap50`` and ``<kind>_false_alarms`` (share of absent prompts) for each kind, and ``mask_iou``."""
    rows: dict[str, list[_Row]] = {kind: [] for kind in KINDS}
    trainee.eval()
    for batch in batches:
        for index, row in enumerate(_rows(trainee, batch)):
            block = index // len(batch.pixels)
            rows[KINDS[max(0, block - WORDS + 1)]].append(row)
    result = {}
    for kind, several in rows.items():
        alarms = [bool((row.scores > _ALARM).any()) for row in several if not row.targets]
        result[f"{kind}_ap50"] = average_precision(several)
        result[f"{kind}_false_alarms"] = float(np.mean(alarms or [False]))
    result["mask_iou"] = float(np.mean([iou for several in rows.values() for row in several for iou in row.mask_ious]))
    return {name: round(value, 4) for name, value in result.items()}


def _rows(trainee: Trainee, batch: Batch) -> list[_Row]:
    outputs = trainee(*batch.inputs())
    kept = outputs.kept
    scores = (kept.logits[-1].sigmoid() * kept.presence[-1].sigmoid()[:, None]).cpu()
    iou = overlaps(batch.boxes[:, :, None], kept.boxes[-1][:, None])[0].cpu()  # [R, T, Q]
    valid = batch.valid.cpu()
    ious = _mask_ious(trainee, outputs, batch, iou.argmax(2).to(batch.pixels.device))
    rows = []
    for row in range(len(scores)):
        order = scores[row].argsort(descending=True)
        best = iou[row][valid[row]][:, order].numpy()
        rows.append(_Row(scores[row][order].double().numpy(), _found(best), len(best), tuple(ious.get(row, ()))))
    return rows


def _found(iou: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which detections, best first, match a target [T, Q] that no earlier one matched."""
    free = np.ones(len(iou), np.bool_)
    found = np.zeros(iou.shape[1], np.bool_)
    for detection in range(iou.shape[1] if len(iou) else 0):
        open_to = np.where(free, iou[:, detection], 0)
        target = int(open_to.argmax())
        if open_to[target] >= _LEAST_IOU:
            found[detection], free[target] = True, False
    return found


def _mask_ious(trainee: Trainee, outputs: Outputs, batch: Batch, query: Tensor) -> dict[int, list[float]]:
    """Return the mask IoU of the query whose box fits each target best, by row."""
    chosen = query[batch.asked].gather(1, batch.slots)  # [M, P]
    hidden = outputs.kept.hidden[-1][batch.asked[:, None], chosen]
    mask = trainee.masks(outputs.pixels, hidden) > 0
    true = batch.masks.flatten(2) > 0.5
    iou = (mask & true).sum(2) / (mask | true).sum(2).clamp(min=1)
    visible = batch.slots_valid & batch.valid[batch.asked].gather(1, batch.slots)
    result: dict[int, list[float]] = {}
    for row, values, seen in zip(batch.asked.tolist(), iou.tolist(), visible.tolist(), strict=True):
        if any(seen):
            result[row] = [value for value, counts in zip(values, seen, strict=True) if counts]
    return result


def average_precision(rows: list[_Row]) -> float:
    """Return the area under the precision–recall curve, at COCO's 101 recalls, of all rows ranked together."""
    targets = sum(row.targets for row in rows)
    if not targets:
        return 0.0
    scores = np.concatenate([row.scores for row in rows])
    hits = np.concatenate([row.found for row in rows])[np.argsort(-scores, kind="stable")].cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(hits / targets, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0)[index.clip(max=len(hits))].mean())
