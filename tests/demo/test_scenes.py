"""Scenes are what they say they are: seeded, with true boxes, masks, phrases and identities."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("skimage")

from demo import scenes
from demo.scene_layouts import LARGEST, LEAST_PIXELS, LEAST_SHARE, MOST_THINGS, SIZE, SMALLEST
from demo.scene_shapes import areas, extents, inside, signed_distance
from demo.scenes import COLOURS, HELD_OUT, SHAPES, Layout, Scene, boxes_of, classes, render, sample_layout
from sam3_runtime.core.errors import SourceError
from sam3_runtime.imaging.postprocess import rle_to_mask
from sam3_runtime.media.sources import load_image


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    made = [sample_layout(np.random.default_rng(seed)) for seed in range(300)]
    assert min(len(layout.things) for layout in made) > 0
    return made


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [scenes.scene(seed) for seed in range(12)]


def _same(one: Scene, other: Scene) -> bool:
    named = [(thing.shape, thing.colour, thing.identity) for thing in one.things]
    return (
        np.array_equal(one.image, other.image)
        and named == [(thing.shape, thing.colour, thing.identity) for thing in other.things]
        and all(np.array_equal(a.mask, b.mask) for a, b in zip(one.things, other.things, strict=True))
    )


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_there_are_enough_shapes_and_colours() -> None:
    assert len(SHAPES) >= 8
    assert len(COLOURS) >= 8
    assert len(scenes.every_phrase()) == len(SHAPES) * len(COLOURS) + len(SHAPES) + len(COLOURS)


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_distances_are_true_near_the_outline(shape: int) -> None:
    """Their slope is 1 there, or anti-aliasing would be too soft or too hard."""
    points = torch.rand((20000, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    points.requires_grad_()
    distance = signed_distance(shape, points[:, 0], points[:, 1])
    (slope,) = torch.autograd.grad(distance.sum(), points)
    near = distance.abs() < 0.03
    assert near.sum() > 100
    assert (slope.norm(dim=1)[near] - 1).abs().median() < 1e-3
    assert slope.norm(dim=1)[near].max() < 1.01


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_shapes_lie_within_their_square_and_their_extents(shape: int) -> None:
    edge = torch.linspace(-1, 1, 201)
    ends = torch.ones(201)
    for x, y in ((edge, ends), (edge, -ends), (ends, edge), (-ends, edge)):
        assert (signed_distance(shape, x, y) > 0).all()
    lower, upper = extents(np.array([shape]), np.zeros(1, np.float32))
    y, x = np.mgrid[-1:1:401j, -1:1:401j]
    filled = signed_distance(shape, torch.from_numpy(x), torch.from_numpy(y)).numpy() < 0
    assert lower[0] == pytest.approx([x[filled].min(), y[filled].min()], abs=0.03)
    assert upper[0] == pytest.approx([x[filled].max(), y[filled].max()], abs=0.03)
    assert areas()[shape] == pytest.approx(filled.mean() * 4, rel=0.04)


def test_points_outside_the_square_are_outside_every_shape() -> None:
    points = np.array([[-3, 0], [0, 1.01], [50, 50]], np.float32)
    assert not inside(np.arange(len(SHAPES))[:, None], np.broadcast_to(points, (len(SHAPES), 3, 2))).any()


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_layouts_hold_1_to_15_things_of_every_class_and_ground(layouts: list[Layout]) -> None:
    counts = [len(layout.things) for layout in layouts]
    assert min(counts) == 1
    assert 12 <= max(counts) <= MOST_THINGS
    assert {one for layout in layouts for one in classes(layout)} == {(s, c) for s in SHAPES for c in COLOURS}
    photographed = np.mean([layout.ground["photograph"] >= 0 for layout in layouts])
    assert 0.35 < photographed < 0.65


def test_sides_are_8_to_50_percent_of_the_image(layouts: list[Layout]) -> None:
    things = np.concatenate([layout.things for layout in layouts])
    lower, upper = extents(things["shape"], things["angle"])
    sides = (upper - lower).max(1) * things["scale"] / min(SIZE)
    assert sides.min() >= SMALLEST - 1e-4
    assert sides.max() <= LARGEST + 1e-4
    assert sides.min() < 0.09
    assert sides.max() > 0.45


def test_what_is_in_a_layout_can_be_seen(layouts: list[Layout]) -> None:
    """At least a quarter of each thing's area, and 40 pixels."""
    assert len(layouts) >= 128
    for start in range(0, 128, 16):
        _, ids = render(layouts[start : start + 16], "cpu")
        for seen, layout in zip(ids, layouts[start : start + 16], strict=True):
            pixels = torch.bincount(seen[seen >= 0].long(), minlength=len(layout.things)).numpy()
            area = areas()[layout.things["shape"]] * layout.things["scale"] ** 2
            assert pixels.min() >= LEAST_PIXELS
            assert (pixels >= LEAST_SHARE * area).all()
            assert (pixels <= 1.1 * area).all()


def test_a_thing_differs_from_its_ground(layouts: list[Layout]) -> None:
    """The mean colour under it is not its own, also for grounds of every kind."""
    assert sum(len(layout.things) for layout in layouts[:40]) > 40
    for layout in layouts[:40]:
        empty = Layout(layout.size, layout.things[:0], layout.ground, layout.light)
        pictures, ids = render([layout, empty], "cpu")
        for index in range(len(layout.things)):
            mine = ids[0] == index
            painted, bare = pictures[0][:, mine].float().mean(1), pictures[1][:, mine].float().mean(1)
            assert (painted - bare).norm() > 25


def test_a_layout_includes_what_is_asked_for() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        wanted = [("heart", "green"), ("ring", "white")]
        assert set(wanted) <= set(classes(sample_layout(rng, include=wanted)))


def test_colours_stay_apart_in_every_shade_and_light(layouts: list[Layout]) -> None:
    """The nearest of the named colours, by hue and whiteness, is the one that a thing is said to have."""
    named = np.array(list(COLOURS.values()), float)

    def chroma(rgb: np.ndarray) -> np.ndarray:
        return rgb / np.linalg.norm(rgb, axis=1, keepdims=True)

    assert sum(len(layout.things) for layout in layouts) > 300
    for layout in layouts:
        lit = layout.things["rgb"] * layout.light["gain"]
        nearest = np.linalg.norm(chroma(lit)[:, None] - chroma(named)[None], axis=2).argmin(1)
        assert (nearest == layout.things["colour"]).all()


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_scene() -> None:
    assert _same(scenes.scene(7), scenes.scene(7))
    assert not _same(scenes.scene(7), scenes.scene(8))


def test_training_never_draws_a_held_out_scene() -> None:
    """Their generators are seeded with more numbers, also where those numbers are the same."""
    held_out = np.random.default_rng(HELD_OUT).random(4)
    assert not np.array_equal(held_out, scenes.training_stream(HELD_OUT).random(4))
    assert not np.array_equal(held_out, scenes.training_stream().random(4)[:4])


def test_boxes_are_tight_around_masks_that_do_not_overlap(drawn: list[Scene]) -> None:
    assert sum(len(scene.things) for scene in drawn) > 12
    for scene in drawn:
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert sum(thing.mask.astype(int) for thing in scene.things).max() == 1
        for thing in scene.things:
            rows, columns = np.nonzero(thing.mask)
            assert thing.box.dtype == np.float32
            assert thing.box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_scene_has_every_thing_of_its_layout(drawn: list[Scene], layouts: list[Layout]) -> None:
    """So that indices mean the same in both."""
    assert [classes(scene) for scene in drawn] == [classes(layout) for layout in layouts[:12]]


def test_a_batch_is_drawn_as_each_scene_alone(layouts: list[Layout]) -> None:
    pictures, ids = render(layouts[:6], "cpu")
    assert pictures.dtype == torch.uint8
    assert ids.dtype == torch.int16
    for index, layout in enumerate(layouts[:6]):
        picture, alone = render([layout], "cpu")
        assert torch.equal(ids[index], alone[0])
        assert torch.equal(pictures[index], picture[0])


def test_a_scene_can_be_drawn_smaller(layouts: list[Layout]) -> None:
    _, ids = render(layouts[:4], "cpu")
    pictures, small = render(layouts[:4], "cpu", size=(168, 168))
    assert pictures.shape == (4, 3, 168, 168)
    halved = boxes_of(ids, MOST_THINGS) / 2
    assert (boxes_of(small, MOST_THINGS) - halved).abs().max() <= 1.5


def test_images_need_not_be_square() -> None:
    scene = scenes.scene(3, (240, 400))
    assert scene.image.shape == (240, 400, 3)
    assert scene.things


def test_later_things_lie_on_top(layouts: list[Layout]) -> None:
    layout = layouts[0]
    twice = np.concatenate([layout.things[:1], layout.things[:1]])
    _, ids = render([Layout(layout.size, twice, layout.ground, layout.light)], "cpu")
    assert set(ids.unique().tolist()) == {-1, 1}


def test_boxes_of_things_that_are_not_there_are_zero() -> None:
    ids = torch.full((1, 4, 5), -1, dtype=torch.int16)
    ids[0, 1:3, 2] = 1
    assert boxes_of(ids, 3).tolist() == [[[0, 0, 0, 0], [2, 1, 3, 3], [0, 0, 0, 0]]]


@pytest.mark.gpu
def test_a_gpu_draws_the_same(layouts: list[Layout]) -> None:
    pictures, ids = render(layouts[:8], "cpu")
    others, other_ids = (tensor.cpu() for tensor in render(layouts[:8], "cuda"))
    assert (ids != other_ids).float().mean() < 1e-4
    assert ((pictures.int() - others.int()).abs() > 1).float().mean() < 1e-3


# --- phrases ----------------------------------------------------------------------------------------------------------


def _true(text: str, one: tuple[str, str]) -> bool:
    colour, _, noun = text.rpartition(" ")
    return colour in ("", one[1]) and noun in ("object", one[0])


def test_phrases_name_exactly_the_things_of_which_they_are_true(layouts: list[Layout]) -> None:
    rng = np.random.default_rng(0)
    assert layouts
    for layout in layouts:
        asked = scenes.phrases(layout, rng, 6)
        assert len({phrase.text for phrase in asked}) == 6
        for phrase in asked:
            assert phrase.text in scenes.every_phrase()
            expected = tuple(i for i, one in enumerate(classes(layout)) if _true(phrase.text, one))
            assert phrase.things == expected


def test_about_a_third_of_the_phrases_are_absent_and_most_of_them_hard(layouts: list[Layout]) -> None:
    rng = np.random.default_rng(0)
    asked = [(layout, phrase) for layout in layouts for phrase in scenes.phrases(layout, rng, 6)]
    absent = [(layout, phrase.text) for layout, phrase in asked if not phrase.things]
    assert 0.3 < len(absent) / len(asked) < 0.4
    hard = 0
    for layout, text in absent:
        colour, _, noun = text.rpartition(" ")
        shapes, colours = zip(*classes(layout), strict=True)
        hard += colour in colours and noun in shapes
    assert hard / len(absent) > 0.4


def test_phrases_of_a_scene_are_those_of_its_layout(drawn: list[Scene], layouts: list[Layout]) -> None:
    assert len(drawn) == 12
    for scene, layout in zip(drawn, layouts[:12], strict=True):
        one, other = np.random.default_rng(1), np.random.default_rng(1)
        assert scenes.phrases(scene, one, 5) == scenes.phrases(layout, other, 5)


def test_example_boxes_mean_all_of_their_class(layouts: list[Layout]) -> None:
    rng = np.random.default_rng(0)
    negatives = 0
    for layout in layouts:
        there = classes(layout)
        example = scenes.example_boxes(layout, rng)
        (meant,) = {there[index] for index in example.things}
        assert example.things == tuple(scenes.things_of(layout, meant))
        assert example.positive
        assert set(example.positive) <= set(example.things)
        assert meant not in {there[index] for index in example.negative}
        negatives += len(example.negative)
    assert negatives > len(layouts) / 2


# --- videos -----------------------------------------------------------------------------------------------------------


def test_things_of_a_video_move_cross_leave_and_keep_their_identity() -> None:
    frames = list(scenes.video(5, frames=60, size=(168, 168), fps=12))
    assert len(frames) == 60
    named = defaultdict(set)
    places = defaultdict(dict)
    for number, scene in enumerate(frames):
        for thing in scene.things:
            named[thing.identity].add((thing.shape, thing.colour))
            places[thing.identity][number] = thing.box
    assert len(named) >= 4
    assert all(len(classes) == 1 for classes in named.values())
    moved = [abs(boxes[max(boxes)] - boxes[min(boxes)]).max() for boxes in places.values()]
    assert np.median(moved) > 10
    assert any(59 not in boxes or 0 not in boxes for boxes in places.values())
    # From one frame to the next a thing goes at most its speed, unless it is being covered or uncovered.
    steps = [
        abs(boxes[number + 1] - boxes[number]).max()
        for boxes in places.values()
        for number in boxes
        if number + 1 in boxes
    ]
    assert np.percentile(steps, 90) < 0.5 * 168 / 12 + 8


def test_a_video_is_written_with_what_is_in_its_frames(tmp_path: Path) -> None:
    truth = scenes.write_video(tmp_path / "moving.mp4", seed=2, frames=9, size=(168, 168), fps=10)
    listed = json.loads(truth.read_text())
    capture = cv2.VideoCapture(str(tmp_path / "moving.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(listed["frames"]) == 9
    assert listed["fps"] == 10
    for scene, frame in zip(scenes.video(2, 9, (168, 168), 10), listed["frames"], strict=True):
        assert [one["identity"] for one in frame] == [thing.identity for thing in scene.things]
        for one, thing in zip(frame, scene.things, strict=True):
            assert np.array_equal(rle_to_mask(one["segmentation"]), thing.mask)
            assert one["bbox"][2:] == [thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_data_set_is_read_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    path = scenes.write_coco(tmp_path / "set", range(HELD_OUT, HELD_OUT + 3), size=(168, 168))
    data = COCO(str(path))
    capsys.readouterr()
    assert [category["name"] for category in data.loadCats(data.getCatIds())] == scenes.every_phrase()
    shown = [category["name"] for category in data.loadCats(data.getCatIds()) if category["exemplar"]]
    assert len(shown) == len(scenes.SHAPES) * len(scenes.COLOURS), "a box shows shape and colour"
    assert "red circle" in shown
    for number, image in enumerate(data.loadImgs(data.getImgIds())):
        scene = scenes.scene(HELD_OUT + number, (168, 168))
        assert np.array_equal(load_image(path.parent / image["file_name"]), scene.image)
        assert len(set(image["prompted_category_ids"])) == 6
        annotations = data.loadAnns(data.getAnnIds(image["id"]))
        assert len(annotations) == 3 * len(scene.things)
        for index, annotation in enumerate(annotations):
            thing = scene.things[index // 3]
            name = data.cats[annotation["category_id"]]["name"]
            assert _true(name, (thing.shape, thing.colour))
            assert np.array_equal(data.annToMask(annotation), thing.mask)
            assert annotation["area"] == thing.mask.sum()
            left, top, width, height = annotation["bbox"]
            assert [left, top, left + width, top + height] == thing.box.tolist()


def test_the_command_writes_a_data_set_a_sheet_and_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--count", "2", "--side", "112", "--sheet", str(sheet), "--video", "3"]
    monkeypatch.setattr("sys.argv", ["scenes", str(tmp_path / "out"), *options])
    assert scenes.main() == 0
    assert "2 scenes" in capsys.readouterr().out
    assert load_image(sheet).shape == (112, 4 * 2 * 112, 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotations.json",
        "images",
        "video.json",
        "video.mp4",
    ]


def test_without_photographs_the_message_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(spec: str) -> None:
        raise SourceError(f"{spec}: the package 'skimage' is not installed here", "install it")

    from demo import scene_grounds

    scene_grounds.photographs.cache_clear()
    scene_grounds._coarse_photographs.cache_clear()
    monkeypatch.setattr(scene_grounds, "load_image", missing)
    monkeypatch.setattr("sys.argv", ["scenes", str(tmp_path), "--count", "9"])
    assert scenes.main() == 1
    assert "Hint: install it" in capsys.readouterr().err
