"""Concept data sets: what each picture is asked, what is there, and a message for whatever is wrong with the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from sam3_runtime.evaluation.data_set import DataSetError, read_concepts, run_lengths
from sam3_runtime.postprocess import rle_to_mask
from tests.concepts import HEIGHT, WIDTH, coco_file, ellipse, write

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
    del file["annotations"][0]["segmentation"]
    assert not read_concepts(write(tmp_path, file)).has_masks


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
        (_set("annotations", 3, "category_id", 99), r"annotations\.3 names what is not listed: .*category_id 99"),
        (
            _set("images", 0, "prompted_category_ids", [1, 77]),
            r"1\.png is asked categories that are not listed: \[77\]",
        ),
        (_set("annotations", 0, "segmentation", "counts", "zz!!"), r"annotations\.0\.segmentation is no mask"),
        (_set("annotations", 0, "segmentation", "counts", "018"), r"annotations\.0\.segmentation is no mask"),
        (_set("annotations", 0, "segmentation", "size", [9, 9]), "is no mask of 160 x 120 pixels"),
        (_set("annotations", 0, "segmentation", [[1, 2, 3]]), "is no mask"),
        (_set("images", 0, "file_name", "none.png"), r"1 of 6 pictures are not in .*first none\.png"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, edit: Edit, message: str) -> None:
    path = write(tmp_path, coco_file())
    file = json.loads(path.read_text())
    edit(file)
    path.write_text(json.dumps(file))
    with pytest.raises(DataSetError, match=message):
        read_concepts(path)


def test_files_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="does not exist"):
        read_concepts(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("no json")
    with pytest.raises(DataSetError, match="is no JSON"):
        read_concepts(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataSetError, match="is not COCO's format"):
        read_concepts(tmp_path / "a.json")


def test_a_picture_of_another_size_than_annotated(tmp_path: Path) -> None:
    file = coco_file()
    path = write(tmp_path, file)
    file["images"][0]["height"] += 1
    for one in file["annotations"]:
        del one["segmentation"]
    path.write_text(json.dumps(file))
    with pytest.raises(DataSetError, match="has 160 x 120 pixels, and the annotations say 160 x 121"):
        read_concepts(path).images[0].read()
