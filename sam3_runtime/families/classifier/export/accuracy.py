"""Measures the accuracy of the model in float32 PyTorch on a folder of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sam3_runtime.core.errors import CheckpointError, SourceError
from sam3_runtime.families.classifier.export.checkpoint import config_of, labels_of
from sam3_runtime.families.classifier.export.reference import VERSIONS, logits_of
from sam3_runtime.families.classifier.labels import load_all, read_labelled
from sam3_runtime.families.classifier.parts import ClassifierDims
from sam3_runtime.families.classifier.reference import Reference, accuracy_of, check_size, write_reference
from sam3_runtime.records.records import CheckpointLock


def compute_accuracy(
    lock: CheckpointLock, output: Path, *, resolution: int, data: Mapping[str, str], limit: int
) -> None:
    """Run the model on ``limit`` images of the labelled folder ``data["folder"]``; write the reference to ``output``.

    The file has the images, the logits and the labels. Images that cannot be read are left out and printed. Raises
    :class:`SourceError` for the folder, :class:`ExportError` where its images make the file too large, and
    :class:`CheckpointError` where the model recognises nothing.
    """
    classes = ClassifierDims(**lock.dims).classes
    labelled = read_labelled(Path(data["folder"]), labels_of(config_of(lock), classes), limit)
    read = load_all(labelled, lambda problem: print(f"left out: {problem}"))
    images = {one.name: image for one, image in read}
    if not images:
        raise SourceError(f"none of the images in {data['folder']} can be read", "see above")
    check_size(list(images.values()), "lower accuracy.limit, or use smaller images")
    logits, truth = logits_of(lock, resolution, list(images.values())), np.asarray([one.truth for one, _ in read])
    reached = accuracy_of(logits, truth)
    print(f"float32 PyTorch at {resolution}: {len(truth)} images, {reached}")
    if reached["top5"] == 0:
        raise CheckpointError(
            f"the reference of {lock.checkpoint} recognises nothing in {data['folder']}",
            "its folders must be named after the model's classes; with random weights, leave `accuracy:` out",
        )
    write_reference(output, Reference(resolution, lock.digest, VERSIONS, images, logits, truth))
