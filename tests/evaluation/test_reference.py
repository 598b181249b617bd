"""The reference's accuracy: a file that holds its data set, and what a variant loses against it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam3_runtime import load
from sam3_runtime.core.errors import RecordError
from sam3_runtime.evaluation.data_set import ConceptData, read_concepts
from sam3_runtime.evaluation.metrics import THRESHOLD, measure
from sam3_runtime.evaluation.reference import AccuracyReference, read_accuracy_reference, write_accuracy_reference
from sam3_runtime.families.sam3.accuracy import losses, measure_pipeline
from tests.concepts import coco_file, nearly_right_answers, right_answers, write
from tests.fake_variant import write_fake_variant

RESOLUTION = 112


@pytest.fixture
def data(tmp_path: Path) -> ConceptData:
    return read_concepts(write(tmp_path / "data", coco_file()))


@pytest.fixture
def reference(data: ConceptData) -> AccuracyReference:
    return AccuracyReference(RESOLUTION, "0" * 64, data, measure(data, nearly_right_answers(data), THRESHOLD))


def test_the_file_holds_the_data_set(reference: AccuracyReference, tmp_path: Path) -> None:
    write_accuracy_reference(tmp_path / "r112_accuracy.safetensors", reference)
    for image in reference.data.images:
        (tmp_path / "data" / image.name).rename(tmp_path / image.name)  # it needs no pictures beside it
    found = read_accuracy_reference(tmp_path / "r112_accuracy.safetensors")
    assert found.accuracy == reference.accuracy
    assert (found.data.pairs, found.data.instances) == (reference.data.pairs, reference.data.instances)
    assert (found.data.categories, found.data.digest) == (reference.data.categories, reference.data.digest)
    for image in found.data.images:
        known = replace(image, source=tmp_path / image.name)
        np.testing.assert_array_equal(image.read(), known.read())


def test_a_damaged_or_missing_file_is_explained(reference: AccuracyReference, tmp_path: Path) -> None:
    path = tmp_path / "r112_accuracy.safetensors"
    with pytest.raises(RecordError, match="is missing"):
        read_accuracy_reference(path)
    write_accuracy_reference(path, reference)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecordError, match="is damaged"):
        read_accuracy_reference(path)


def test_losses_are_of_boxes_and_masks(data: ConceptData) -> None:
    right, nearly = (measure(data, answers(data), THRESHOLD) for answers in (right_answers, nearly_right_answers))
    none, some = list(losses(right, right, 0.005)), list(losses(nearly, right, 0.005))
    assert [(check.name, check.value, check.passed) for check in none] == [
        ("box AP loss", 0, True), ("mask AP loss", 0, True),
    ]  # fmt: skip
    assert [check.passed for check in some] == [False, False]
    assert some[0].value == pytest.approx(1 - (nearly.box.ap or 0))
    assert all(check.passed for check in losses(right, nearly, 0.005))  # better is no loss
    boxes = right.model_copy(update={"mask": None})
    assert [check.name for check in losses(nearly, boxes, 0.005)] == ["box AP loss"]


def test_engines_are_measured_on_the_same_data(reference: AccuracyReference, tmp_path: Path) -> None:
    write_fake_variant(tmp_path / "engines/b4_q20_r112")
    with load(tmp_path / "engines/b4_q20_r112") as pipeline:
        found = measure_pipeline(pipeline, reference)
        assert (found.pairs, found.instances) == (reference.accuracy.pairs, reference.accuracy.instances)
        assert found.false_alarms.share == 1  # the fake engines find everything
        with pytest.raises(RecordError, match="of another checkpoint or resolution than b4_q20_r112"):
            measure_pipeline(pipeline, replace(reference, resolution=224))
