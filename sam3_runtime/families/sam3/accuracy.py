"""Compares the accuracy of a variant on a concept data set with that of float32 PyTorch on the same images."""

from __future__ import annotations

from collections.abc import Iterator

from sam3_runtime.core.errors import RecordError
from sam3_runtime.evaluation.metrics import Accuracy, measure
from sam3_runtime.evaluation.questions import answer_all, questions_of
from sam3_runtime.evaluation.reference import AccuracyReference
from sam3_runtime.families.sam3.finder import finder_of
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.plan.paths import reference_file
from sam3_runtime.records.records import Check


def measure_pipeline(pipeline: Pipeline, reference: AccuracyReference) -> Accuracy:
    """Return the accuracy on the reference's data. Raises :class:`RecordError` for another checkpoint or resolution."""
    config = pipeline.config
    if (reference.checkpoint_digest, reference.resolution) != (config.checkpoint_digest, config.resolution):
        raise RecordError(
            f"the accuracy reference is of another checkpoint or resolution than {config.variant}",
            f"run snakemake --force {reference_file(config.resolution, accuracy=True)}",
        )
    data = reference.data
    detect = finder_of(pipeline, data.phrases)
    answers = [one for listed in answer_all(questions_of(data), detect, pipeline.batch) for one in listed]
    return measure(data, answers, reference.accuracy.threshold, reference.accuracy.areas)


def losses(found: Accuracy, wanted: Accuracy, limit: float) -> Iterator[Check]:
    """Yield the checks of the loss of AP against the reference: of boxes, and of masks if the data has masks."""
    for name, ours, theirs in (("box AP loss", found.box, wanted.box), ("mask AP loss", found.mask, wanted.mask)):
        if theirs is not None and theirs.ap is not None:
            reached = ours.ap if ours and ours.ap is not None else 0.0
            yield Check(name=name, value=theirs.ap - reached, limit=limit, sense="at most")
