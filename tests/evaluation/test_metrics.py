"""What is measured: exact where it can be counted by hand, and what other evaluators say of the same answers."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3_runtime.evaluation.data_set import ConceptData, read_concepts
from sam3_runtime.evaluation.metrics import Answer, measure
from sam3_runtime.evaluation.questions import as_coco_results
from sam3_runtime.families.sam3.accuracy import losses
from sam3_runtime.imaging.postprocess import mask_to_rle
from tests.concepts import coco_file, ellipse, nearly_right_answers, right_answers, write

THRESHOLD = 0.5


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), coco_file(20))


@pytest.fixture(scope="module")
def data(file: Path) -> ConceptData:
    return read_concepts(file)


def absent(data: ConceptData) -> list[tuple[int, int]]:
    return [pair for pair in data.pairs if pair not in data.instances]


def test_right_answers_are_perfect(data: ConceptData) -> None:
    found = measure(data, right_answers(data), THRESHOLD)
    assert found.mask is not None
    for kind in (found.box, found.mask):
        assert (kind.ap, kind.ap50, kind.ap75, kind.small) == pytest.approx((1, 1, 1, 1))
    assert found.concept.cgf1 == pytest.approx(100)
    assert (found.false_alarms.share, found.false_alarms.image_share) == (0, 0)
    assert (found.pairs, found.false_alarms.absent) == (len(data.pairs), len(absent(data)))
    assert found.instances == sum(map(len, data.instances.values()))


def test_no_answers_are_worth_nothing(data: ConceptData) -> None:
    nothing = [Answer(pair, np.empty(0, np.float32), np.empty((0, 4), np.float32), []) for pair in data.pairs]
    found = measure(data, nothing, THRESHOLD)
    assert found.mask is not None
    assert (found.box.ap, found.mask.ap, found.concept.cgf1, found.concept.pmf1) == (0, 0, 0, 0)
    assert found.false_alarms.share == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_average_precision_is_that_of_pycocotools(data: ConceptData, file: Path, seed: int) -> None:
    """Its own way from the files: results are loaded, all pictures and categories are judged."""
    answers = nearly_right_answers(data, seed)
    found = measure(data, answers, THRESHOLD)
    assert found.mask is not None
    for kind, ours, left_out in (("bbox", found.box, "segmentation"), ("segm", found.mask, "bbox")):
        results = [{k: v for k, v in one.items() if k != left_out} for one in as_coco_results(answers)]
        with redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            judge = COCOeval(truth, truth.loadRes(results), kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        ap, ap50, ap75, small, medium, large = (None if value == -1 else value for value in judge.stats[:6])
        assert 0.1 < ap < 0.9
        # Results are rounded to thousandths of a pixel in the file.
        assert (ours.ap, ours.ap50, ours.ap75, ours.small, ours.medium) == pytest.approx(
            (ap, ap50, ap75, small, medium), abs=2e-3
        )
        assert ours.large is large is None


def test_cgf1_is_that_of_its_authors(data: ConceptData) -> None:
    """facebookresearch/sam3, sam3/eval/cgf1_eval.py, said so of the same answers; its sums have 1e-4 added to them."""
    found = measure(data, nearly_right_answers(data), THRESHOLD).concept
    assert found.of == "masks"
    assert found.cgf1 == pytest.approx(22.2629, abs=0.02)
    assert (found.pmf1, found.il_mcc) == pytest.approx((0.31407, 0.70886), abs=2e-4)


def test_cgf1_counts_instances_of_present_phrases_alone(data: ConceptData) -> None:
    """An answer to an absent phrase lowers IL_MCC and not pmF1."""
    answers = right_answers(data)
    for place, answer in enumerate(answers):
        if answer.pair == absent(data)[0]:
            box = np.asarray([[1, 1, 30, 30]], np.float32)
            answers[place] = Answer(answer.pair, np.asarray([0.8], np.float32), box, [mask_to_rle(ellipse(box[0]))])
    found = measure(data, answers, THRESHOLD)
    right_yes, right_no, wrong = len(data.instances), len(absent(data)) - 1, 1
    expected = right_yes * right_no / np.sqrt((right_yes + wrong) * right_yes * (right_no + wrong) * right_no)
    assert found.concept.pmf1 == pytest.approx(1)
    assert found.concept.il_mcc == pytest.approx(expected)
    assert found.false_alarms.share == pytest.approx(1 / len(absent(data)))
    assert found.false_alarms.image_share == pytest.approx(1 / found.false_alarms.images)
    assert measure(data, answers, 0.85).false_alarms.share == 0


def test_phrases_that_are_all_there_have_no_correlation(data: ConceptData) -> None:
    present = [answer for answer in right_answers(data) if answer.pair in data.instances]
    found = measure(data, present, THRESHOLD)
    assert (found.concept.pmf1, found.concept.il_mcc, found.concept.cgf1) == (1, None, None)
    assert (found.false_alarms.share, found.false_alarms.absent) == (None, 0)


def test_pairs_that_were_not_asked_count_nothing(data: ConceptData) -> None:
    answers = right_answers(data)[:10]
    found = measure(data, answers, THRESHOLD)
    assert (found.pairs, found.box.ap) == (10, pytest.approx(1))


def test_crowds_are_ignored(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    for one in content["annotations"][::3]:
        one["iscrowd"] = 1
    data = read_concepts(write(tmp_path, content))
    only = [
        replace(answer, scores=answer.scores[keep], boxes=answer.boxes[keep], masks=[answer.masks[i] for i in keep])
        for answer in right_answers(data)
        for keep in [[i for i, one in enumerate(data.instances.get(answer.pair, ())) if not one.crowd]]
    ]
    found = measure(data, only, THRESHOLD)
    assert (found.box.ap, found.concept.pmf1) == (pytest.approx(1), pytest.approx(1))
    assert found.instances == sum(not one["iscrowd"] for one in content["annotations"])


def test_sizes_relative_to_the_picture(data: ConceptData) -> None:
    """160 x 120 is a sixteenth of COCO's usual picture: what is small in pixels is large on it."""
    answers = right_answers(data)
    assert measure(data, answers, THRESHOLD).box.large is None
    relative = measure(data, answers, THRESHOLD, "relative")
    assert (relative.box.small, relative.box.large) == (None, pytest.approx(1))
    assert relative.areas == "relative"
    assert relative.box.ap == pytest.approx(1)


def test_one_instance_without_a_mask_takes_no_measure_away(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = []
    data = read_concepts(write(tmp_path, content))
    unknown = next(pair for pair in data.instances if not data.knows_masks_of(pair))
    answers = nearly_right_answers(read_concepts(file))
    found = measure(data, answers, THRESHOLD)
    assert (found.pairs, found.without_mask, found.concept.of) == (len(data.pairs), 1, "masks")
    others = measure(data, [one for one in answers if one.pair != unknown], THRESHOLD)
    assert found.mask is not None
    assert found.mask == others.mask
    assert 0 < found.mask.ap < 1
    assert found.concept.pmf1 == others.concept.pmf1
    assert found.box == measure(read_concepts(file), answers, THRESHOLD).box, "boxes are all there"
    limits = {check.name: check.value for check in losses(found, measure(data, right_answers(data), THRESHOLD), 0.01)}
    assert limits["mask AP loss"] == pytest.approx(1 - found.mask.ap)


def test_no_pair_whose_masks_are_known(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    seen = set()
    for one in content["annotations"]:
        pair = one["image_id"], one["category_id"]
        if pair not in seen:
            one["segmentation"] = []
        seen.add(pair)
    data = read_concepts(write(tmp_path, content))
    present = [answer for answer in nearly_right_answers(read_concepts(file)) if answer.pair in data.instances]
    found = measure(data, present, THRESHOLD)
    assert (found.mask, found.concept.pmf1, found.without_mask) == (None, None, len(present))
    assert found.box.ap is not None


def test_boxes_alone(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    for one in content["annotations"]:
        del one["segmentation"]
    data = read_concepts(write(tmp_path, content))
    blank = mask_to_rle(np.zeros((120, 160), bool))
    answers = [replace(answer, masks=[blank] * len(answer.scores)) for answer in right_answers(data)]
    found = measure(data, answers, THRESHOLD)
    assert (found.box.ap, found.mask, found.concept.of) == (pytest.approx(1), None, "boxes")
    assert found.concept.cgf1 == pytest.approx(100)
