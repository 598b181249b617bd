"""Measures what float32 PyTorch reaches on a folder of labelled pictures. Judges nothing."""

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
    """Ask the model about ``limit`` pictures of the labelled folder ``data["folder"]``, and write what it says, what is
    right, and the pictures to ``output``. Pictures that cannot be read are left out, and the log names them.

    Raises :class:`SourceError` for the folder, :class:`ExportError` where its pictures make the file too large, and
    :class:`CheckpointError` where the model recognises nothing.
    """
    classes = ClassifierDims(**lock.dims).classes
    labelled = read_labelled(Path(data["folder"]), labels_of(config_of(lock), classes), limit)
    read = load_all(labelled, lambda problem: print(f"left out: {problem}"))
    pictures = {one.name: image for one, image in read}
    truth = [one.truth for one, _ in read]
    if not pictures:
        raise SourceError(f"none of the pictures in {data['folder']} can be read", "see above")
    check_size(list(pictures.values()), "lower accuracy.limit, or use smaller pictures")
    logits, shown = logits_of(lock, resolution, list(pictures.values())), np.asarray(truth, np.int64)
    reached = accuracy_of(logits, shown)
    print(f"float32 PyTorch at {resolution}: {len(truth)} pictures, {reached}")
    if reached["top5"] == 0:
        raise CheckpointError(
            f"the reference of {lock.checkpoint} recognises nothing in {data['folder']}",
            "its folders must be the model's classes; leave `accuracy:` out for random weights",
        )
    write_reference(output, Reference(resolution, lock.digest, VERSIONS, pictures, logits, shown))
