"""The file with the accuracy of float32 PyTorch on a concept data set.

It contains the images, prompts and instances too, so that verification needs neither the data set nor the checkpoint.
``families/sam3/export/accuracy.py`` computes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.core.tensor_files import read_tensors, write_tensors
from sam3_runtime.evaluation.data_set import Category, ConceptData, ConceptImage, Instance
from sam3_runtime.evaluation.metrics import Accuracy

METADATA = "sam3_accuracy"
FORMAT = 1


@dataclass(frozen=True)
class AccuracyReference:
    """``accuracy`` is that of float32 PyTorch on ``data``, with all queries of the model."""

    resolution: int
    checkpoint_digest: str
    data: ConceptData
    accuracy: Accuracy


def write_accuracy_reference(path: Path, reference: AccuracyReference) -> None:
    """Write the file, with the images as pixels. Raises what :meth:`ConceptImage.read` raises."""
    data = reference.data
    description = {
        "format": FORMAT,
        "resolution": reference.resolution,
        "checkpoint_digest": reference.checkpoint_digest,
        "accuracy": reference.accuracy.model_dump(),
        "name": data.name,
        "digest": data.digest,
        "images": [{"id": one.id, "name": one.name, "prompted": one.prompted} for one in data.images],
        "categories": [[number, asdict(one)] for number, one in data.categories.items()],
        "instances": [[pair, [asdict(one) for one in listed]] for pair, listed in data.instances.items()],
    }
    write_tensors(path, METADATA, description, {f"images.{index}": one.read() for index, one in enumerate(data.images)})


def read_accuracy_reference(path: Path) -> AccuracyReference:
    """Read the file. Raises :class:`RecordError` if it is missing, damaged or of another version."""
    return read_tensors(path, METADATA, FORMAT, _parse)


def _parse(described: dict[str, Any], tensors: dict[str, Any]) -> AccuracyReference:
    images = []
    for index, one in enumerate(described["images"]):
        pixels = tensors[f"images.{index}"]
        images.append(ConceptImage(one["id"], one["name"], pixels.shape[:2], tuple(one["prompted"]), pixels))
    data = ConceptData(
        described["name"],
        described["digest"],
        tuple(images),
        {number: Category(**one) for number, one in described["categories"]},
        {
            (image, category): tuple(Instance(**one | {"box": tuple(one["box"])}) for one in listed)
            for (image, category), listed in described["instances"]
        },
    )
    accuracy = Accuracy.model_validate(described["accuracy"])
    return AccuracyReference(described["resolution"], described["checkpoint_digest"], data, accuracy)
