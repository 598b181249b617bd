"""What is drawn can be seen, read and told apart: on any ground, at any size, however many there are."""

from __future__ import annotations

from itertools import combinations, product

import cv2
import numpy as np
import pytest

from sam3_runtime.imaging.drawing import _label, _label_positions, color_of, contrast_of, draw, font_size
from sam3_runtime.imaging.fonts import coverage
from sam3_runtime.imaging.postprocess import Detections


def noise(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def found(boxes: list[tuple[float, ...]], size: tuple[int, int], prompt: str = "cup", index: int = 0) -> Detections:
    """Detections whose masks fill their boxes."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = True
    scores = np.linspace(0.9, 0.4, len(boxes), dtype=np.float32)
    return Detections(prompt, index, np.asarray(boxes, np.float32), scores, masks, np.arange(len(boxes)))


THREE = [(20.0, 30.0, 70.0, 60.0), (-5.0, -5.0, 129.0, 99.0), (5.0, 5.0, 6.0, 6.0)]


def test_drawing_leaves_the_image_alone_and_its_colours_to_be_seen() -> None:
    image = np.full((300, 400, 3), 100, np.uint8)
    drawn = draw(image, [found([(100, 100, 300, 250)], (300, 400))])
    assert (image == 100).all()
    assert drawn[200, 200].tolist() == [120, 94, 94], "0.85 of the picture and 0.15 of the prompt's colour"
    assert drawn[280, 380].tolist() == [100, 100, 100]
    assert drawn[249, 200].tolist() == list(color_of(0)), "the outline"


@pytest.mark.parametrize("index", range(8))
def test_an_outline_is_seen_on_a_thing_of_its_own_colour(index: int) -> None:
    image = np.full((300, 400, 3), color_of(index), np.uint8)
    drawn = draw(image, [found([(100, 100, 300, 250)], (300, 400), index=index)])
    assert (np.abs(drawn[200, 90:110].astype(int) - color_of(index)).sum(axis=1) > 150).any()


def test_a_hole_has_an_outline_too() -> None:
    ring = found([(100, 100, 300, 250)], (300, 400))
    ring.masks[0, 150:200, 150:250] = False
    drawn = draw(np.zeros((300, 400, 3), np.uint8), [ring])
    assert drawn[175, 148:152].max() > 200
    assert (drawn[175, 200] == 0).all()


def test_text_is_readable_on_every_colour() -> None:
    def luminance(color: tuple[int, ...]) -> float:
        parts = [part / 255 for part in color]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in [*product(range(0, 256, 51), repeat=3), *map(color_of, range(40))]:
        dark, light = sorted((luminance(color), luminance(contrast_of(color))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, color
        text = _label("cup", "0.90", 20, color, 200)
        assert {tuple(pixel) for pixel in text.reshape(-1, 3)} >= {color, contrast_of(color)}


# --- labels -----------------------------------------------------------------------------------------------------------


def overlaps(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


@pytest.mark.parametrize(
    "boxes",
    [
        [(500, 300, 700, 500)] * 12,
        [(0, 0, 1280, 720)] * 8,
        [(1270, 710, 1280, 720)] * 4,
        [(100 + 5 * place, 300, 130 + 5 * place, 400) for place in range(14)],
    ],
)
def test_labels_stay_apart_and_on_the_picture(boxes: list[tuple[int, int, int, int]]) -> None:
    labels = [np.zeros((24, 60 + 7 * place % 40, 3), np.uint8) for place in range(len(boxes))]
    placed = [
        (x, y, x + label.shape[1], y + label.shape[0])
        for label, (x, y) in zip(labels, _label_positions(boxes, labels, (720, 1280)), strict=True)
    ]
    assert len(placed) == len(boxes)
    assert not any(overlaps(one, other) for one, other in combinations(placed, 2))
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 1280 and y1 <= 720 for x0, y0, x1, y1 in placed)


def test_every_label_of_a_crowd_is_whole() -> None:
    size = (480, 640)
    crowd = [found([(x, y, x + 40, y + 30) for x in (300, 310) for y in (200, 205)], size, *what)
             for what in (("red car", 0), ("red car with a trailer", 1), ("cup", 2))]  # fmt: skip
    drawn = draw(noise(*size), crowd)
    assert [len(one.scores) for one in crowd] == [4] * 3
    for one in crowd:
        for score in one.scores:
            label = _label(one.prompt, f"{score:.2f}", font_size(640), color_of(one.prompt_index), 640)
            assert cv2.matchTemplate(drawn, label, cv2.TM_SQDIFF).min() < 100, (one.prompt, score)


def test_a_name_wider_than_the_picture_is_cut_and_its_score_stays() -> None:
    name = "a very long name that is wider than the picture itself, by far"
    label = _label(name, "0.87", 12, (0, 0, 0), 120)
    assert 60 < label.shape[1] <= 120
    score = _label("", "0.87", 12, (0, 0, 0), 120)[:, -coverage("0.87", 12).shape[1] :]
    assert np.array_equal(label[:, -score.shape[1] :], score)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (40, 60), (90, 120), (3000, 30)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    for prompt in ("cup", "Tür 日本 ⭐", "a very long prompt that is wider than the picture itself, by far", ""):
        assert draw(noise(*size), [found(THREE, size, prompt, 12)]).shape == (*size, 3)
    assert np.array_equal(draw(noise(*size), []), noise(*size))


def test_colours_of_ones_own_and_identities() -> None:
    image, three = np.full((90, 120, 3), 100, np.uint8), found(THREE, (90, 120))
    drawn = draw(image, [three], [(0, 0, 0)], [np.asarray([7, -1, 12])])
    assert drawn[59, 45].max() < 10
    assert not np.array_equal(drawn, draw(image, [three], [(0, 0, 0)])), "the label has a number"


def test_prompts_have_colours_of_their_own() -> None:
    assert len({color_of(index) for index in range(40)}) == 40
