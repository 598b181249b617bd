"""Writes the outputs of timm's model in float32 PyTorch for the verification images.

The images go through timm's own transform, so that verification includes this project's preprocessing.
``families/classifier/reference.py`` reads the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.classifier.export.weights import load_model, transform_of
from sam3_runtime.families.classifier.reference import Reference, check_size, write_reference
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.records import CheckpointLock

VERSIONS = {"torch": torch.__version__, "timm": timm.__version__}
_BATCH = 8


def compute_reference(
    lock: CheckpointLock,
    output: Path,
    *,
    resolution: int,
    images: Mapping[str, Image],
) -> None:
    """Run the model over ``images`` (name → RGB uint8 [H, W, 3]) and write ``output``.

    Raises :class:`ExportError` where the file grows too large or there are no images.
    """
    if not images:
        raise ExportError("a reference needs images", "set reference.source")
    check_size(list(images.values()), "list fewer or smaller images under reference")
    logits = logits_of(lock, resolution, list(images.values()))
    write_reference(output, Reference(resolution, lock.digest, VERSIONS, dict(images), logits))


@torch.no_grad()
def logits_of(lock: CheckpointLock, resolution: int, images: Sequence[Image]) -> NDArray[np.float32]:
    """Return float32 PyTorch's logits [N, K] of N images, RGB uint8 [H, W, 3] of any size each."""
    model, transform = load_model(lock, resolution), transform_of(lock, resolution)
    logits = []
    for start in range(0, len(images), _BATCH):
        pixels = [transform(Pillow.fromarray(image)) for image in images[start : start + _BATCH]]
        logits.append(model(torch.stack(pixels)).numpy())
    return np.concatenate(logits).astype(np.float32)
