"""Project files: what a class may be, and one message (value, line, fix) for each wrong value."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sam3_runtime.core.errors import ProjectError
from sam3_runtime.families.sam3.projects import project_schema, read_project

PROJECT = Path(__file__).resolve().parents[3]

WHOLE = """\
threshold: 0.45
classes:
  - words: person
  - name: cup
    words: coffee cup
    threshold: 0.4
    color: "#e63c3c"
    examples: {image: shelf.png, positive: [[10, 20, 90, 120]], negative: [[200, 20.5, 260, 110]]}
  - {name: logo, color: [0, 128, 255], examples: {image: shelf.png, positive: [[1, 2, 3, 4]]}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "shop.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_by_words_by_boxes_and_by_both(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, WHOLE))
    person, cup, logo = project.settings.classes
    assert [section.label for section in project.settings.classes] == ["person", "cup", "logo"]
    assert (person.prompt.text, person.prompt.boxes, person.threshold, person.color) == ("person", (), None, None)
    assert (cup.prompt.text, cup.threshold, cup.color) == ("coffee cup", 0.4, (230, 60, 60))
    assert cup.prompt.boxes == ((10, 20, 90, 120), (200, 20.5, 260, 110))
    assert cup.prompt.labels == (1, 0)
    assert (logo.prompt.text, logo.prompt.boxes, logo.color) == (None, ((1, 2, 3, 4),), (0, 128, 255))
    assert cup.examples is not None
    assert project.image(cup.examples) == str(tmp_path / "shelf.png")
    assert project.settings.threshold == 0.45


def test_a_packages_picture_is_no_path(tmp_path: Path) -> None:
    text = "classes: [{name: cup, examples: {image: 'package:skimage/data/coffee.png', positive: [[1, 1, 9, 9]]}}]"
    project = read_project(write(tmp_path, text))
    examples = project.settings.classes[0].examples
    assert examples is not None
    assert project.image(examples) == "package:skimage/data/coffee.png"


EXAMPLES = "classes:\n  - name: cup\n    examples:\n      image: a.png\n      "
MERGED = """\
classes:
  - &all
    color: "#ff0000"
    threshold: 0.4
    words: person
  - words: cat
    <<: *all
"""
# Nine lists, each of nine times the one before.
BOMB = "a: &a [1]\n" + "".join(f"{to}: &{to} [{', '.join([f'*{of}'] * 9)}]\n" for of, to in pairwise("abcdefghij"))
WRONG = {
    "": r"is empty\n.*classes: \[\{words: person\}\]",
    "threshold: 0.5": r":1: `classes` is missing\n.*classes: \[\{words: person\}\]",
    "classes: []": r"classes: the list is empty\n.*such as",
    "classes: [{}]": r"the class has no name\n.*`words`",
    "classes:\n  - words: cat\n  - name: cup": r":3: classes\[1\]: the class 'cup' has neither words.*\n.*words: cup",
    "classes: [{examples: {image: a.png, positive: [[1, 1, 2, 2]]}}]": r"the class has no name",
    "classes: [{words: '  '}]": "the class has no name",
    "classes: [{name: cup, words: ' '}]": r"the prompt is empty",
    "classes: [{words: no}]": r"words: False is not text\n.*in quotes",
    "classes: [{words: 7}]": r"words: 7 is not text\n.*in quotes",
    "classes:\n  - words: cat\n  - words: dog\n  - {name: cat, words: kitten}": (
        r":4: classes\[2\]: the class 'cat' is defined twice \(first on line 2\)\n.*another `name`"
    ),
    "classes:\n  - words: cat\n    colour: red": r":3: classes\[0\]\.colour: unknown key 'colour'\n.*'color'",
    "classes:\n  - {words: cat, example: 3}": r":2: .*unknown key 'example'\n.*'examples'",
    EXAMPLES + "positives: [[1, 1, 2, 2]]": r":5: .*unknown key 'positives'\n.*'positive'",
    "klasses: []": r"unknown key 'klasses'\n.*'classes'",
    "classes: [{words: cat, words: dog}]": "'words' appears twice",
    "classes: [cat]": r"classes\[0\]: expected keys with values, found 'cat'",
    "classes:\n  - words: cat\n    threshold: 1.5": r":3: classes\[0\]\.threshold: 1.5 is too large\n.*at most 1",
    "classes: [{words: cat, threshold: '0.4'}]": r"'0.4' is text.*without quotes: 0.4",
    "threshold: -1\nclasses: [{words: cat}]": "-1 is too small",
    "classes:\n  - words: cat\n    color: #ff0000": r":3: .*colour is empty: outside quotes, # begins a comment\n",
    "classes: [{words: cat, color: ''}]": r"'' is not a colour\n.*#rrggbb",
    "classes: [{words: cat, color: []}]": r"\[\] is not a colour",
    "classes: [{words: cat, color: [255, 0]}]": r"\[255, 0\] is not a colour",
    "classes: [{words: cat, color: [256, 0, 0]}]": r"\[256, 0, 0\] is not a colour",
    "classes: [{words: cat, color: [true, 0, 0]}]": r"\[True, 0, 0\] is not a colour",
    "classes: [{words: cat, color: '#f00'}]": "'#f00' is not a colour",
    EXAMPLES + "positive: [[1, 1, 2, 2]]\n      negative: [1, 2, 3, 4]": r":6: .*negative\[0\]: 1 is not a box",
    EXAMPLES + "positive: [[1, 1, 2]]": r":5: .*positive\[0\]: \[1, 1, 2\] is not a box\n.*x0, y0, x1, y1",
    EXAMPLES + "positive: [[1, 1, 2, wide]]": r"positive\[0\]\[3\]: 'wide'",
    EXAMPLES
    + "positive:\n        - [1, 1, 2, 2]\n        - [-4, 1, 2, 2]": r":7: .*positive\[1\]\[0\]: -4 is too small",
    EXAMPLES + "positive: [[9, 1, 2, 2]]": r":2: classes\[0\]: the box \[9.0, 1.0, 2.0, 2.0\] is empty",
    EXAMPLES + "positive: [[1, 1, .nan, 2]]": r"nan",
    EXAMPLES + "positive: []": r"the examples of 'cup' have no box",
    EXAMPLES + "negative: [[1, 1, 2, 2]]": r"'cup' has only negative boxes\n.*words or a positive box",
    EXAMPLES + f"positive: {[[1, 1, 2, 2]] * 28}": r"has 28 boxes\n.*at most 27",
    "classes: [{name: cup, examples: {positive: [[1, 1, 2, 2]]}}]": r"`classes\[0\]\.examples\.image` is missing",
    EXAMPLES + "positive: [[0.1, 0.2, 0.5, 1]]": r"at most one pixel wide and high\n.*add `relative: true`",
    EXAMPLES + "relative: true\n      positive: [[1, 2, 3, 4]]": r"relative box .* is not within 0 and 1\n.*pixels",
    "classes:\n\t- words: cat": ":2: a tab",
    EXAMPLES + "positive: [[1, 1, .inf, 2]]": r":5: .*positive\[0\]\[2\]: inf: .*finite",
    "threshold: .nan\nclasses: [{words: cat}]": r":1: threshold: nan",
    "classes: [{words: 007}]": r":1: 007 is read as 7 in YAML\n.*'007' in quotes",
    MERGED + "    threshold: 1.5": r":8: classes\[1\]\.threshold: 1.5 is too large",
    MERGED.replace("0.4", "1.4") + "    threshold: 0.5": r":4: classes\[0\]\.threshold: 1.4 is too large",
    MERGED + "    words: dog": r":8: the key 'words' appears twice \(first on line 6\)",
    BOMB: "has too many values",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_gets_value_line_and_fix(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProjectError, match=f"(?s)shop.yaml.*{WRONG[text]}"):
        read_project(write(tmp_path, text))


def test_merge_keys_take_values_over_and_their_lines(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, MERGED + "    color: [0, 255, 0]\n"))
    person, cat = project.settings.classes
    assert (person.words, person.threshold, person.color) == ("person", 0.4, (255, 0, 0))
    assert (cat.words, cat.threshold, cat.color) == ("cat", 0.4, (0, 255, 0))
    lines = {key: project.location("classes", 1, key) for key in ("words", "threshold", "color")}
    assert lines == {
        key: f"{tmp_path / 'shop.yaml'}:{line}: classes[1].{key}"
        for key, line in {"words": 6, "threshold": 4, "color": 8}.items()
    }


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"none\.yaml is missing\n.*words: person"):
        read_project(tmp_path / "none.yaml")
    (tmp_path / "shop.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_project(tmp_path / "shop.yaml")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_project(tmp_path)


def test_the_schema_for_editors_is_fresh_and_takes_what_is_right() -> None:
    assert (PROJECT / "project.schema.json").read_text() == project_schema(), "run make schema"
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(project_schema())
    jsonschema.validate(yaml.safe_load(WHOLE), schema)
    for wrong in ({"words": "cat", "color": "red"}, {"words": "cat", "color": [1, 2]}, {"wrods": "cat"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"classes": [wrong]}, schema)
