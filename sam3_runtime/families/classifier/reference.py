"""The file with the logits of float32 PyTorch for some images, and their classes where they are labelled.

It contains the images, so that verification needs neither the source files nor the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import ExportError
from sam3_runtime.core.tensor_files import read_tensors, write_tensors
from sam3_runtime.core.wording import counted

METADATA = "classifier_reference"
FORMAT = 1
LARGEST_FILE = 100_000_000  # bytes
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """N images, RGB uint8 [H, W, 3] by name, and their ``logits`` float32 [N, K].

    ``truth`` int64 [N] are their classes, if they are labelled. ``versions`` are those of the libraries.
    """

    resolution: int
    checkpoint_digest: str
    versions: Mapping[str, str]
    pictures: Mapping[str, NDArray[np.uint8]]
    logits: FloatArray
    truth: NDArray[np.int64] | None = None


def top_classes(scores: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the ``count`` best classes (or all, if fewer) of each row of ``scores`` [N, K], best first.

    Ties go to the lower index; NaN comes last.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int64)


def accuracy_of(logits: FloatArray, truth: NDArray[np.int64]) -> dict[str, float]:
    """Return the top-1 and top-5 accuracy of ``logits`` [N, K] for the classes ``truth`` [N], as shares."""
    hits = top_classes(logits, 5) == truth[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}


def check_size(images: Sequence[NDArray[np.uint8]], hint: str) -> None:
    """Raise :class:`ExportError` if the images make the file too large."""
    size = sum(image.nbytes for image in images)
    if size > LARGEST_FILE:
        limit = f"{LARGEST_FILE / 1e6:.0f}"
        raise ExportError(f"{counted(len(images), 'image')}: {size / 1e6:.0f} MB, more than {limit}", hint)


def write_reference(path: Path, reference: Reference) -> None:
    """Write the file, with the images as pixels."""
    description = {
        "format": FORMAT,
        "resolution": reference.resolution,
        "checkpoint_digest": reference.checkpoint_digest,
        "versions": dict(reference.versions),
        "pictures": list(reference.pictures),
    }
    tensors: dict[str, NDArray[Any]] = {
        f"pictures.{index}": image for index, image in enumerate(reference.pictures.values())
    }
    truth = {} if reference.truth is None else {"truth": reference.truth}
    write_tensors(path, METADATA, description, tensors | truth | {"logits": reference.logits})


def read_reference(path: Path) -> Reference:
    """Read the file. Raises :class:`RecordError` if it is missing, damaged or of another version."""
    return read_tensors(path, METADATA, FORMAT, _parse)


def _parse(described: dict[str, Any], tensors: dict[str, Any]) -> Reference:
    images = {name: tensors[f"pictures.{index}"] for index, name in enumerate(described["pictures"])}
    logits, truth = tensors["logits"], tensors.get("truth")
    if logits.ndim != 2 or {len(images), len(logits if truth is None else truth)} != {len(logits)}:
        raise ValueError("the numbers of images, logits and labels differ")
    return Reference(
        described["resolution"], described["checkpoint_digest"], described["versions"], images, logits, truth
    )
