"""Concept data sets: what each picture is asked, what is there, and a message for whatever is wrong with the file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from sam3_runtime.core.errors import SourceError
from sam3_runtime.evaluation.data_set import DataSetError, read_concepts, run_lengths
from sam3_runtime.imaging.postprocess import rle_to_mask
from sam3_runtime.media.sources import load_image
from tests.concepts import HEIGHT, WIDTH, coco_file, ellipse, write
from tests.media.test_sources import turned

Edit = Callable[[dict[str, Any]], Any]


def test_pictures_are_asked_what_their_entries_say(tmp_path: Path) -> None:
    file = coco_file()
    data = read_concepts(write(tmp_path, file))
    assert [image.prompted for image in data.images] == [tuple(one["prompted_category_ids"]) for one in file["images"]]
    assert len(data.pairs) == 24
    assert set(data.phrases) == {"red car", "person", "cat", "dog"}
    assert 0 < len(data.instances) < len(data.pairs)
    assert sum(len(listed) for listed in data.instances.values()) == len(file["annotations"])
    entry = file["annotations"][0]
    first = data.instances[(entry["image_id"], entry["category_id"])][0]
    x, y, width, height = entry["bbox"]
    assert (first.box, first.area) == ((x, y, x + width, y + height), entry["area"])
    assert data.images[0].read().shape == (HEIGHT, WIDTH, 3)


def test_ordinary_coco_asks_what_is_there_and_lvis_what_is_known_to_be_absent(tmp_path: Path) -> None:
    file = coco_file()
    for entry in file["images"]:
        del entry["prompted_category_ids"]
    path = write(tmp_path, file)
    data = read_concepts(path)
    assert set(data.pairs) == {(one["image_id"], one["category_id"]) for one in file["annotations"]}
    assert len(read_concepts(path, all_categories=True).pairs) == 24
    absent = next(number for number in (1, 2, 3, 4) if (1, number) not in data.pairs)
    file["images"][0]["neg_category_ids"] = [absent]
    assert set(read_concepts(write(tmp_path, file)).pairs) - set(data.pairs) == {(1, absent)}


def test_annotations_of_what_is_not_asked_are_left_out(tmp_path: Path) -> None:
    file = coco_file()
    kept = file["annotations"][0]
    file["images"][kept["image_id"] - 1]["prompted_category_ids"] = [kept["category_id"]]
    data = read_concepts(write(tmp_path, file))
    assert {category for image, category in data.instances if image == kept["image_id"]} == {kept["category_id"]}


def test_the_first_pictures_alone(tmp_path: Path) -> None:
    path = write(tmp_path, coco_file())
    (tmp_path / "6.png").unlink()
    data = read_concepts(path, limit=2)
    assert [image.id for image in data.images] == [1, 2]
    assert {image for image, _ in data.instances} <= {1, 2}


def test_the_digest_is_of_everything_that_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a", coco_file())
    known = read_concepts(path).digest
    assert read_concepts(write(tmp_path / "b", coco_file())).digest == known
    assert read_concepts(path, limit=5).digest != known
    (tmp_path / "a/1.png").write_bytes((tmp_path / "a/2.png").read_bytes())
    assert read_concepts(path).digest != known
    changed = coco_file()
    changed["annotations"][0]["bbox"][0] += 1
    assert read_concepts(write(tmp_path / "c", changed)).digest != known


def test_masks_come_as_polygons_or_run_lengths(tmp_path: Path) -> None:
    file = coco_file()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 10:50] = True
    uncompressed = [int(run) for run in run_lengths(coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode())]
    file["annotations"][0]["segmentation"] = [[10, 20, 50, 20, 50, 60, 10, 60]]
    file["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": uncompressed}
    data = read_concepts(write(tmp_path, file))
    assert data.has_masks
    everything = [one for listed in data.instances.values() for one in listed]
    assert sum(one.mask is not None and np.array_equal(rle_to_mask(one.mask), mask) for one in everything) == 2
    for one in file["annotations"]:
        del one["segmentation"]
    assert not read_concepts(write(tmp_path, file)).has_masks


NO_MASK: list[Any] = [None, [], [[]], [[10, 20, 50, 20]], [[1, 2], []]]


@pytest.mark.parametrize("segmentation", NO_MASK)
def test_an_instance_without_a_mask_takes_none_from_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, segmentation: Any
) -> None:
    """Points and lines have no inside; pycocotools takes four numbers for a box."""
    file = coco_file()
    file["annotations"][3]["segmentation"] = segmentation
    path = write(tmp_path, file)
    data = read_concepts(path)
    entry = file["annotations"][3]
    assert data.has_masks
    unknown = [pair for pair in data.pairs if not data.knows_masks_of(pair)]
    assert unknown == [(entry["image_id"], entry["category_id"])]
    count = len(file["annotations"])
    assert caplog.messages == [f"{path}: 1 of {count} annotations have no mask, first annotations.3 (id {entry['id']})"]


def test_a_line_beside_polygons_adds_nothing(tmp_path: Path) -> None:
    file = coco_file()
    square = [10, 20, 50, 20, 50, 60, 10, 60]
    for number, polygons in enumerate(([[10, 20, 90, 100], square], [square])):
        file["annotations"][number]["segmentation"] = polygons
    instances = read_concepts(write(tmp_path, file)).instances
    made = [one.mask for listed in instances.values() for one in listed if one.mask]
    assert len(made) - len({one["counts"] for one in made}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = ellipse((5, 7, 90 - seed * 9, 110)) ^ (random.random((HEIGHT, WIDTH)) < 0.01)
    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    runs = run_lengths(encoded["counts"].decode())
    assert runs.sum() == mask.size
    assert runs[1::2].sum() == mask.sum()
    assert coco.frPyObjects({"size": [HEIGHT, WIDTH], "counts": runs.tolist()}, HEIGHT, WIDTH) == encoded


def _set(*place: Any) -> Edit:
    *path, last, value = place

    def edit(file: dict[str, Any]) -> None:
        entry: Any = file
        for key in path:
            entry = entry[key]
        entry[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda file: file.pop("categories"), "categories: Field required"),
        (_set("images", []), "images: List should have at least 1 item"),
        (_set("images", 0, "height", "tall"), r"images\.0\.height: "),
        (_set("images", 1, "id", 1), "images has the id 1 2 times"),
        (_set("categories", 2, "name", " "), "the category 3 has no name"),
        (_set("annotations", 3, "category_id", 99), r"annotations\.3 \(id 4\) refers to an unlisted entry: .*id 99"),
        (
            _set("images", 0, "prompted_category_ids", [1, 77]),
            r"1\.png has unlisted categories: \[77\]",
        ),
        (
            _set("annotations", 0, "segmentation", "counts", "zz!!"),
            r"annotations\.0 \(id 1\)\.segmentation is not a mask",
        ),
        (
            _set("annotations", 0, "segmentation", "counts", "018"),
            r"annotations\.0 \(id 1\)\.segmentation is not a mask",
        ),
        (_set("annotations", 0, "segmentation", "size", [9, 9]), "is not a mask of 160 x 120 pixels"),
        (_set("annotations", 0, "segmentation", [[1, 2, 3]]), r"is not a mask .*: \[1, 2, 3\] is not a list x, y"),
        (_set("annotations", 0, "segmentation", [1, 2, 3, 4, 5, 6]), "is not a mask .*: 1 is not a list x, y"),
        (_set("annotations", 0, "segmentation", [["a"] * 6]), "is not a mask"),
        (_set("annotations", 0, "segmentation", [[None] * 6]), "is not a mask .* are not numbers"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, edit: Edit, message: str) -> None:
    path = write(tmp_path, coco_file())
    file = json.loads(path.read_text())
    edit(file)
    path.write_text(json.dumps(file))
    with pytest.raises(DataSetError, match=message):
        read_concepts(path)


NUMBERS: dict[str, tuple[Edit, str]] = {
    "not a number in a polygon": (
        _set("annotations", 0, "segmentation", [[10, 20, float("nan"), 20, 50, 60]]), r"annotations\.0 \(id 1\)\.segm"
    ),
    "infinity in a polygon": (
        _set("annotations", 0, "segmentation", [[10, 20, float("inf"), 20, 50, 60]]), r"annotations\.0 \(id 1\)\.segm"
    ),
    "a polygon far off": (
        _set("annotations", 0, "segmentation", [[10, 20, 1e12, 20, 50, 60]]), r"annotations\.0 \(id 1\)\..*far outside"
    ),
    "not a number among runs": (
        _set("annotations", 0, "segmentation", {"size": [HEIGHT, WIDTH], "counts": [float("nan"), 5]}), "is not a mask"
    ),
    "no number in a box": (_set("annotations", 2, "bbox", [1, float("nan"), 3, 4]), r"\.2 \(id 3\)\.bbox\.1: .*finite"),
    "infinity in a box": (_set("annotations", 2, "bbox", [1, 2, float("inf"), 4]), r"\.2 \(id 3\)\.bbox\.2: .*finite"),
    "a box turned over": (_set("annotations", 2, "bbox", [1, 2, -3, 4]), r"\.2 \(id 3\)\.bbox\.2: .*greater"),
    "a box far off": (_set("annotations", 2, "bbox", [1e12, 2, 3, 4]), r"\.2 \(id 3\)\.bbox is far outside its image"),
    "an area": (_set("annotations", 2, "area", float("nan")), r"\.2 \(id 3\)\.area: .*finite"),
    "a height": (_set("images", 0, "height", 10**12), r"images\.0\.height: .*less"),
    "a picture": (
        lambda file: file["images"][0].update(height=10**6, width=10**6), r"1\.png is 1000000 x 1000000: no image"
    ),
    "an id": (_set("annotations", 2, "image_id", 10**30), r"annotations\.2 \(id 3\)\.image_id: .*less"),
}  # fmt: skip


def broken(folder: Path, kind: str) -> Path:
    path = write(folder, coco_file())
    file = json.loads(path.read_text())
    NUMBERS[kind][0](file)
    path.write_text(json.dumps(file))
    return path


@pytest.mark.parametrize("kind", [kind for kind in NUMBERS if "polygon" not in kind])
def test_numbers_that_are_none_are_refused_with_their_annotation(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(DataSetError, match=f"{re.escape(str(path))}.*{NUMBERS[kind][1]}"):
        read_concepts(path)


def test_polygons_of_such_numbers_take_no_memory(tmp_path: Path) -> None:
    """In a process of little memory: they used to take all that there is."""
    kinds = [kind for kind in NUMBERS if "polygon" in kind]
    program = """
import pathlib, resource, sys
from sam3_runtime.evaluation.data_set import DataSetError, read_concepts
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for path in sys.argv[1:]:
    try:
        read_concepts(pathlib.Path(path))
    except DataSetError as error:
        print(error.message)
"""
    paths = [broken(tmp_path / str(number), kind) for number, kind in enumerate(kinds)]
    command = [sys.executable, "-c", program, *map(str, paths)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 3
    for path, kind, line in zip(paths, kinds, said, strict=True):
        assert re.match(f"{re.escape(str(path))}: {NUMBERS[kind][1]}", line), line


def test_points_beside_the_picture_are_taken(tmp_path: Path) -> None:
    file = coco_file()
    file["annotations"][0]["segmentation"] = [[-20, -20, WIDTH + 30, -20, WIDTH + 30, 60, -20, 60]]
    file["annotations"][0]["bbox"] = [-20, -20, WIDTH + 50, 80]
    data = read_concepts(write(tmp_path, file))
    (one,) = [one for listed in data.instances.values() for one in listed if one.box[0] == -20]
    assert one.mask is not None
    assert rle_to_mask(one.mask)[:59].all()


def test_pictures_that_are_not_there_are_left_out_when_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, coco_file())
    known = read_concepts(path).digest
    (tmp_path / "2.png").unlink()
    data = read_concepts(path)
    assert data.digest != known
    with pytest.raises(SourceError, match=r"2\.png does not exist"):
        data.images[1].read()
    less = data.without({2})
    assert [image.id for image in less.images] == [1, 3, 4, 5, 6]
    assert {image for image, _ in less.instances} == {image for image, _ in data.instances} - {2}
    with pytest.raises(DataSetError, match=r"none of its 6 images is in .*first 1\.png"):
        read_concepts(path, tmp_path / "elsewhere")


def test_files_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="does not exist"):
        read_concepts(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("no json")
    with pytest.raises(DataSetError, match="is not JSON"):
        read_concepts(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataSetError, match="is not in COCO's format"):
        read_concepts(tmp_path / "a.json")


def test_a_picture_that_exif_turns_is_told(tmp_path: Path) -> None:
    """Labelling tools that do not know of EXIF write the size as stored."""
    path = write(tmp_path, coco_file())
    pixels = load_image(tmp_path / "1.png")
    jpeg = tmp_path / "1.jpg"
    assert cv2.imwrite(str(jpeg), pixels)
    turned(jpeg).rename(tmp_path / "1.png")
    message = r"120 x 160 pixels, and the annotations are for 160 x 120: .*EXIF orientation"
    with pytest.raises(DataSetError, match=message):
        read_concepts(path).images[0].read()


def test_a_picture_of_another_size_than_annotated(tmp_path: Path) -> None:
    file = coco_file()
    path = write(tmp_path, file)
    file["images"][0]["height"] += 1
    for one in file["annotations"]:
        del one["segmentation"]
    path.write_text(json.dumps(file))
    with pytest.raises(DataSetError, match="has 160 x 120 pixels, and the annotations are for 160 x 121"):
        read_concepts(path).images[0].read()
