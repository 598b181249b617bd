"""A project and its reference picture, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sam3_runtime.families.sam3.projects import Project
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image

WriteProject = Callable[[str], Project]

CLASSES = """\
threshold: 0.45
classes:
  - words: person
  - name: mug
    words: coffee cup
    threshold: 0.6
    color: "#0080ff"
    examples: {image: photos/shelf.png, positive: [[5, 5, 20, 25]], negative: [[1, 2, 9, 9]]}
  - name: logo
    examples: {image: photos/shelf.png, positive: [[3, 4, 30, 20], [1, 1, 9, 8], [2, 2, 7, 7]]}
"""
WORDS = "classes: [{words: person}, {words: red car}]"


def photo(seed: int, height: int = 40, width: int = 60) -> Image:
    # of another brightness each: what the fake backend tells pictures by
    return np.random.default_rng(seed).integers(0, 40 * (seed % 6 + 1), (height, width, 3), dtype=np.uint8)


def write_photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), photo(seed))
    return path


def same(one: Detections, other: Detections) -> bool:
    """Whether two classes found the same, whatever they are called."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "masks", "query_index")
    )
