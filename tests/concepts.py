"""Concept data sets for tests: ellipses drawn by a seed, written as COCO, and answers that are nearly right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam3_runtime.evaluation.data_set import ConceptData
from sam3_runtime.evaluation.metrics import Answer
from sam3_runtime.imaging.postprocess import mask_to_rle, rle_to_mask

PHRASES = ("red car", "person", "cat", "dog")
HEIGHT, WIDTH = 120, 160


def ellipse(box: tuple[float, float, float, float], size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray[Any, Any]:
    """A mask bool [H, W] that fills ``box`` (xyxy)."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    across = (x - (box[0] + box[2]) / 2) / max(box[2] - box[0], 1) * 2
    down = (y - (box[1] + box[3]) / 2) / max(box[3] - box[1], 1) * 2
    return np.asarray(across**2 + down**2 <= 1)


def as_annotation(mask: np.ndarray[Any, Any], image: int, category: int, number: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": box, "area": int(mask.sum()), "iscrowd": 0,
        "segmentation": mask_to_rle(mask),
    }  # fmt: skip


def coco_file(pictures: int = 6, seed: int = 0) -> dict[str, Any]:
    """A COCO file whose pictures are asked all phrases, of which about a third are absent."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    made["categories"] = [{"id": number, "name": name} for number, name in enumerate(PHRASES, 1)]
    for image in range(1, pictures + 1):
        asked = [int(one) for one in random.permutation(len(PHRASES)) + 1]
        made["images"].append(
            {"id": image, "file_name": f"{image}.png", "height": HEIGHT, "width": WIDTH, "prompted_category_ids": asked}
        )
        for category in asked:
            for _ in range(max(int(random.integers(-1, 4)), 0)):
                low = random.integers(0, (WIDTH - 40, HEIGHT - 40))
                high = low + random.integers(12, 40, 2)
                mask = ellipse((*low, *high))
                made["annotations"].append(as_annotation(mask, image, category, len(made["annotations"]) + 1))
    return made


def write(folder: Path, file: dict[str, Any]) -> Path:
    """Write the annotations and a picture of noise for each entry."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in file["images"]:
        random = np.random.default_rng(entry["id"])
        pixels = random.integers(0, 40 * (entry["id"] % 6 + 1), (entry["height"], entry["width"], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / entry["file_name"]), pixels)
    (folder / "annotations.json").write_text(json.dumps(file))
    return folder / "annotations.json"


def right_answers(data: ConceptData) -> list[Answer]:
    """What is there, with certainty."""
    answers = []
    for pair in data.pairs:
        there = data.instances.get(pair, ())
        boxes = np.asarray([one.box for one in there], np.float32).reshape(-1, 4)
        answers.append(Answer(pair, np.full(len(there), 0.9, np.float32), boxes, [one.mask or {} for one in there]))
    return answers


def nearly_right_answers(data: ConceptData, seed: int = 0) -> list[Answer]:
    """Instances shifted by a few pixels, some missed, some found twice, and some that are not there at all."""
    random = np.random.default_rng(seed)
    answers = []
    for right in right_answers(data):
        masks = []
        for mask in right.masks:
            for _ in range(int(random.choice([0, 1, 1, 1, 2]))):
                shift = random.integers(-4, 5, 2)
                masks.append(np.roll(rle_to_mask(mask), shift, (0, 1)))
        for _ in range(int(random.choice([0, 0, 1]))):
            low = random.integers(0, (WIDTH - 40, HEIGHT - 40))
            masks.append(ellipse((*low, *(low + random.integers(12, 40, 2)))))
        scores = np.sort(random.random(len(masks)).astype(np.float32))[::-1]
        found = [as_annotation(mask, *right.pair, 0)["bbox"] for mask in masks]
        boxes = np.asarray([[x, y, x + w, y + h] for x, y, w, h in found], np.float32).reshape(-1, 4)
        answers.append(Answer(right.pair, scores, boxes, [mask_to_rle(mask) for mask in masks]))
    return answers
