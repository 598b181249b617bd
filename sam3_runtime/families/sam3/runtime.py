"""The runtime interface of SAM3: opens, verifies and measures its engines. NumPy alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3_runtime.engines.running.base import Device, Engine
from sam3_runtime.evaluation.reference import AccuracyReference, read_accuracy_reference
from sam3_runtime.families.sam3 import gate
from sam3_runtime.families.sam3.accuracy import losses, measure_pipeline
from sam3_runtime.families.sam3.parts import ModelDims
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.reference import Reference
from sam3_runtime.families.sam3.reference import read_reference as read
from sam3_runtime.families.sam3.tokens import Tokenizer
from sam3_runtime.families.sam3.workload import Workload
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.records import Check, VariantConfig

if TYPE_CHECKING:
    from sam3_runtime.families.sam3.evaluate import Evaluation


def open_model(
    config: VariantConfig, engines: dict[str, Engine], device: Device, *, directory: Path, status: str, reason: str
) -> Pipeline:
    """Return the pipeline over the opened engines."""
    tokenizer = None
    if "text-encoder" in engines:
        tokenizer = Tokenizer(directory / "tokenizer.json", ModelDims(**config.dims).text_tokens)
    return Pipeline(config, engines, tokenizer, status, reason, device)


def read_reference(path: Path, config: VariantConfig) -> Reference:
    """Read the outputs of float32 PyTorch; :class:`RecordError` if they do not belong to this variant."""
    reference = read(path)
    gate.check_reference(reference, config)
    return reference


def reference_images(path: Path) -> list[Image]:
    """Return the images of a reference file."""
    return list(read(path).pictures.values())


def read_accuracy(path: Path, _config: VariantConfig) -> AccuracyReference:
    """Read the accuracy of float32 PyTorch on a data set, and its images."""
    return read_accuracy_reference(path)


def judge_accuracy(
    model: Pipeline, reached: AccuracyReference, limits: Mapping[str, float]
) -> tuple[dict[str, Any], list[Check]]:
    """Return the accuracy of the engines there, and checks of the loss."""
    measured = measure_pipeline(model, reached)
    return measured.model_dump(), list(losses(measured, reached.accuracy, limits["ap_loss"]))


def evaluate_data_set(directory: Path, data: Mapping[str, str], output: Path) -> Iterator[str]:
    """Measure the variant on the data set of `accuracy:`; write the result to ``output``, and return lines."""
    images = Path(data["images"]) if "images" in data else None
    found: Evaluation = evaluate(directory, Path(data["annotations"]), images=images, output=output)
    return found.lines()


def evaluate(directory: Path, annotations: Path, **options: Any) -> Evaluation:
    """Run ``sam3-runtime evaluate``: see :mod:`sam3_runtime.families.sam3.evaluate`."""
    from sam3_runtime.families.sam3.evaluate import evaluate as run

    return run(directory, annotations, **options)


judge = gate.judged
workload = Workload
