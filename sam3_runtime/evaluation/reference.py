"""The file of what float32 PyTorch reaches on a concept data set: one safetensors file, without PyTorch.

It holds the pictures, what they are asked and what is there, and the reference's accuracy, so that verifying needs
neither the data set nor the checkpoint. ``export/accuracy.py`` makes it. Nothing here measures or judges anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import written_whole
from sam3_runtime.core.hints import command_for
from sam3_runtime.evaluation.data_set import Category, ConceptData, ConceptImage, Instance
from sam3_runtime.evaluation.metrics import Accuracy

METADATA = "sam3_accuracy"
FORMAT = 1


@dataclass(frozen=True)
class AccuracyReference:
    """``accuracy`` is float32 PyTorch's on ``data``, with all queries of the model."""

    resolution: int
    checkpoint_digest: str
    data: ConceptData
    accuracy: Accuracy


def write_accuracy_reference(path: Path, reference: AccuracyReference) -> None:
    """Write the file whole; pictures are stored as pixels, so that it grows with their size."""
    from safetensors.numpy import save_file

    data = reference.data
    described = {
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
    pictures = {f"images.{place}": np.ascontiguousarray(image.read()) for place, image in enumerate(data.images)}
    with written_whole(path) as temporary:
        save_file(pictures, str(temporary), {METADATA: json.dumps(described)})


def read_accuracy_reference(path: Path) -> AccuracyReference:
    """Read the file; :class:`RecordError` when it is missing, damaged or of another version."""
    from safetensors import SafetensorError, safe_open

    again = f"delete it and run {command_for(path)}"
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {})[METADATA])
            if described["format"] != FORMAT:
                raise RecordError(f"{path} has format {described['format']}, not {FORMAT}", again)
            pictures = [file.get_tensor(f"images.{place}") for place in range(len(described["images"]))]
        return _assemble(described, pictures)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", f"run {command_for(path)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged or no such reference: {error}", again) from None


def _assemble(described: dict[str, Any], pictures: list[Any]) -> AccuracyReference:
    data = ConceptData(
        described["name"],
        described["digest"],
        tuple(
            ConceptImage(one["id"], one["name"], pixels.shape[:2], tuple(one["prompted"]), pixels)
            for one, pixels in zip(described["images"], pictures, strict=True)
        ),
        {number: Category(**one) for number, one in described["categories"]},
        {
            (image, category): tuple(Instance(**one | {"box": tuple(one["box"])}) for one in listed)
            for (image, category), listed in described["instances"]
        },
    )
    accuracy = Accuracy.model_validate(described["accuracy"])
    return AccuracyReference(described["resolution"], described["checkpoint_digest"], data, accuracy)
