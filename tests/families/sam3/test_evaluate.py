"""Evaluation on the fake backend: the right pictures are asked the right things, and the result says so."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest
from rich.console import Console

from sam3_runtime.evaluation.data_set import DataSetError, read_concepts
from sam3_runtime.evaluation.metrics import MOST
from sam3_runtime.evaluation.questions import FLOOR
from sam3_runtime.families.sam3.evaluate import Evaluation, evaluate
from sam3_runtime.media.sources import load_image
from tests.cli.test_main import run
from tests.concepts import coco_file, write
from tests.media.test_sources import not_utf8, odd_name, turned


def quiet(*arguments: Any, **named: Any) -> Evaluation:
    return evaluate(*arguments, console=Console(file=io.StringIO()), **named)


def test_the_result_can_be_read_again_and_shared(fake_variant: Path, concept_file: Path, tmp_path: Path) -> None:
    found = quiet(fake_variant, concept_file, output=tmp_path / "result.json", detections=tmp_path / "detections.json")
    assert Evaluation.read(tmp_path / "result.json") == found
    assert str(tmp_path) not in (tmp_path / "result.json").read_text()
    assert (found.variant, found.images, found.phrases, found.data) == ("b4_q20_r112", 6, 4, "annotations.json")
    assert found.accuracy.false_alarms.share == 1  # the fake engines find everything
    answers = json.loads((tmp_path / "detections.json").read_text())
    assert {(one["image_id"], one["category_id"]) for one in answers} == set(read_concepts(concept_file).pairs)
    assert all(one["score"] > FLOOR for one in answers)
    assert len(answers) <= 24 * MOST


def test_words_of_the_command(fake_variant: Path, concept_file: Path, tmp_path: Path) -> None:
    said = run(
        "evaluate", str(fake_variant), str(concept_file), "--limit", "2", "--output", str(tmp_path / "result.json")
    )
    assert said.returncode == 0, said.stderr
    assert "b4_q20_r112 on annotations.json: 2 images, 8 prompts (words, 4 phrases)" in said.stdout
    assert "| ap50" in said.stdout
    assert "cgF1" in said.stdout
    assert "false alarms: 1.000 of" in said.stdout
    by_box = run("evaluate", str(fake_variant), str(concept_file), "--prompts", "boxes", "--relative-areas")
    assert "(one example box, 4 phrases)" in by_box.stdout
    assert "shares of the image" in by_box.stdout


def test_bad_pictures_are_left_out_and_the_rest_is_measured(
    fake_variant: Path, concept_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "data/2.png").unlink()
    (tmp_path / "data/3.png").write_bytes(b"no picture")
    pixels = load_image(tmp_path / "data/5.png")
    assert cv2.imwrite(str(tmp_path / "turned.jpg"), pixels)
    turned(tmp_path / "turned.jpg").rename(tmp_path / "data/5.png")
    said = run(
        "evaluate", str(fake_variant), str(concept_file),
        "--output", str(tmp_path / "result.json"), "--detections", str(tmp_path / "found.json"),
    )  # fmt: skip
    assert said.returncode == 1
    assert "3 images, 12 prompts (words, 4 phrases)" in said.stdout
    assert said.stdout.splitlines()[-1] == "left out, see above: 3 images (2.png, 3.png, 5.png)"
    for message in ("2.png does not exist", "3.png is not a readable image", "do not apply the EXIF orientation"):
        assert said.stderr.count(message) == 1
    found = Evaluation.read(tmp_path / "result.json")
    assert (found.images, found.left_out) == (3, ("2.png", "3.png", "5.png"))
    assert {one["image_id"] for one in json.loads((tmp_path / "found.json").read_text())} == {1, 4, 6}
    content = json.loads(concept_file.read_text())
    content["images"] = [one for one in content["images"] if one["id"] in (1, 4, 6)]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in (1, 4, 6)]
    (tmp_path / "data/good.json").write_text(json.dumps(content))
    assert quiet(fake_variant, tmp_path / "data/good.json").accuracy == found.accuracy


@not_utf8
def test_a_data_set_of_any_name(fake_variant: Path, concept_file: Path, tmp_path: Path) -> None:
    odd = concept_file.rename(odd_name(concept_file.parent, b"caf\xe9.json"))
    content = json.loads(odd.read_text())
    content["images"][0]["file_name"] = "caf\udce9.png"
    odd.write_text(json.dumps(content))
    (concept_file.parent / "1.png").rename(odd_name(concept_file.parent, b"caf\xe9.png"))
    found = quiet(fake_variant, odd, output=tmp_path / "result.json")
    assert (found.data, found.images) == ("caf%E9.json", 6)
    odd_name(concept_file.parent, b"caf\xe9.png").unlink()
    found = quiet(fake_variant, odd, output=tmp_path / "result.json")
    assert Evaluation.read(tmp_path / "result.json").left_out == ("caf%E9.png",)
    "\n".join(found.lines()).encode()


def test_what_has_no_value_is_not_printed(fake_variant: Path, concept_file: Path) -> None:
    """Without absent phrases there is no cgF1; where nothing is of a size, no AP of it."""
    content = json.loads(concept_file.read_text())
    there = content["annotations"][:1]
    (first,) = (one for one in content["images"] if one["id"] == there[0]["image_id"])
    first["prompted_category_ids"] = [there[0]["category_id"]]
    concept_file.write_text(json.dumps(content | {"images": [first], "annotations": there}))
    found = quiet(fake_variant, concept_file)
    heading, head, _, boxes, masks, of_concepts = "\n".join(found.lines()).splitlines()
    assert f"{found.data}: 1 image, 1 prompt (words, 1 phrase), 1 instance, " in heading
    assert head.replace(" ", "").startswith("||ap|ap50|ap75|")
    assert "–" not in head + boxes + masks
    assert re.fullmatch(
        r"pmF1 \d\.\d{3}, of masks, score above 0\.5; cgF1 and false alarms need absent phrases, and there are none",
        of_concepts,
    )
    first["prompted_category_ids"] = [
        one["id"] for one in content["categories"] if one["id"] != there[0]["category_id"]
    ]
    concept_file.write_text(json.dumps(content | {"images": [first], "annotations": []}))
    heading, alarms = quiet(fake_variant, concept_file).lines()
    assert ", 3 prompts (words, 3 phrases), 0 instances, " in heading
    assert re.fullmatch(r"false alarms: \d\.\d{3} of 3 absent prompts, \d\.\d{3} of 1 image with one", alarms)


def test_a_mask_that_is_not_there_is_said(fake_variant: Path, concept_file: Path) -> None:
    content = json.loads(concept_file.read_text())
    content["annotations"][0]["segmentation"] = []
    concept_file.write_text(json.dumps(content))
    said = run("evaluate", str(fake_variant), str(concept_file))
    assert said.returncode == 0
    assert "| masks" in said.stdout
    last = said.stdout.splitlines()[-1]
    assert last == "1 of 24 prompts have an instance without a mask: excluded from AP of masks"
    assert "1 of 25 annotations have no mask, first annotations.0 (id 1)" in said.stderr


def test_a_data_set_that_is_wrong_is_one_message(fake_variant: Path, concept_file: Path, tmp_path: Path) -> None:
    for number in range(1, 7):
        (tmp_path / f"data/{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataSetError, match=r"none of the 6 images of annotations\.json could be read"):
        quiet(fake_variant, concept_file)
    for arguments, message in (
        ((str(concept_file), "--images", str(tmp_path)), "none of its 6 images is in"),
        ((str(tmp_path / "none.json"),), "does not exist"),
    ):
        said = run("evaluate", str(fake_variant), *arguments)
        assert said.returncode == 1
        assert said.stderr.startswith("Error: ")
        assert message in said.stderr
        assert "Traceback" not in said.stderr


def test_a_phrase_longer_than_the_model_reads(fake_variant: Path, tmp_path: Path) -> None:
    content = coco_file()
    content["categories"][0]["name"] = "a very long phrase that no tokenizer of letters can take"
    with pytest.raises(DataSetError, match="has 48 tokens, the model reads 32"):
        quiet(fake_variant, write(tmp_path / "long", content))


def test_nothing_to_take_an_example_from(fake_variant: Path, tmp_path: Path) -> None:
    content = coco_file()
    content["annotations"] = []
    with pytest.raises(DataSetError, match="no instance to take an example box from"):
        quiet(fake_variant, write(tmp_path / "empty", content), prompts="boxes")
    found = quiet(fake_variant, tmp_path / "empty/annotations.json").accuracy
    assert (found.box.ap, found.concept.pmf1, found.false_alarms.share) == (None, None, 1)
