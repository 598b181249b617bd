"""What a data set asks: its phrases, or boxes of its instances."""

from __future__ import annotations

from pathlib import Path

from sam3_runtime.evaluation.data_set import ConceptData, read_concepts
from sam3_runtime.evaluation.questions import questions_of
from sam3_runtime.families.sam3.prompts import Prompt
from tests.concepts import coco_file, write


def test_example_boxes_are_of_instances_and_always_the_same(concepts: ConceptData) -> None:
    asked = questions_of(concepts, "boxes")
    assert {(image.id, category) for image, prompts in asked for category in prompts} == set(concepts.instances)
    for image, prompts in asked:
        for category, prompt in prompts.items():
            assert prompt.text is None
            assert prompt.boxes[0] in [one.box for one in concepts.instances[(image.id, category)]]
    assert [prompts for _, prompts in questions_of(concepts, "boxes")] == [prompts for _, prompts in asked]


def test_phrases_that_a_box_cannot_show_are_not_asked_by_one(tmp_path: Path) -> None:
    content = coco_file()
    content["categories"][0]["exemplar"] = False
    data = read_concepts(write(tmp_path, content))
    assert {category for _, prompts in questions_of(data, "boxes") for category in prompts} == {2, 3, 4}
    assert {category for _, prompts in questions_of(data) for category in prompts} == {1, 2, 3, 4}


def test_boxes_are_cut_at_the_picture(tmp_path: Path) -> None:
    content = coco_file()
    for one in content["annotations"]:
        one["bbox"] = [-3.5, -2, 400, 300]
    data = read_concepts(write(tmp_path, content))
    assert {prompt.boxes for _, asked in questions_of(data, "boxes") for prompt in asked.values()} == {
        ((0, 0, 160, 120),)
    }


def test_a_prompt_is_named_by_its_phrase(concepts: ConceptData) -> None:
    image, asked = questions_of(concepts)[0]
    assert list(asked.values()) == [Prompt(concepts.categories[category].name) for category in image.prompted]
