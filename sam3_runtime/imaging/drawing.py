"""Draws what was found on a copy of a picture: outlines with a light fill, boxes, and labels that stay apart.

The colour of things stays to be seen, as it may be what was asked for: a mask is filled lightly and outlined, black or
white beside its colour so that the outline shows on any ground. Knows detections, OpenCV and fonts, and no file.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sam3_runtime.imaging.fonts import coverage
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image

Color = tuple[int, int, int]
_PALETTE: tuple[Color, ...] = (
    (230, 60, 60),
    (40, 130, 240),
    (50, 180, 75),
    (245, 170, 30),
    (160, 70, 220),
    (20, 190, 190),
    (240, 90, 190),
    (150, 110, 60),
)
_FILL = 0.15  # share of the prompt's colour inside a mask
_LINE, _FONT = 1 / 640, 1 / 72  # a line's width and a font's size, as shares of the picture's longer side
_SMALLEST_FONT, _SMALL_PICTURE = 12, 192  # pixels; on smaller pictures letters are smaller
_LEAST_FONT = 7
_ROWS = 6  # labels' heights that a label moves up or down to be free


def color_of(prompt_index: int) -> Color:
    """The colour (RGB) of a prompt; the first eight are told apart easily, later ones are spread over the hues."""
    if prompt_index < len(_PALETTE):
        return _PALETTE[prompt_index]
    red, green, blue = colorsys.hsv_to_rgb(prompt_index * 0.618 % 1, 0.75, 0.9)
    return int(red * 255), int(green * 255), int(blue * 255)


def contrast_of(color: Color) -> Color:
    """Black or white, whichever is seen better beside ``color``: by 4.5 to 1 or more (WCAG)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(color, 255)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def draw(
    image: Image,
    found: Sequence[Detections],
    colors: Sequence[Color] | None = None,
    tracks: Sequence[NDArray[np.int64]] | None = None,
) -> Image:
    """A copy of ``image`` [H, W, 3] with masks, outlines, boxes and labels.

    A colour for each prompt: of ``colors``, where given, else :func:`color_of`. ``tracks`` are the identities of each
    prompt's detections; those that have one show it.
    """
    canvas = image.copy()
    side = max(image.shape[:2])
    weight = 1 if side < _SMALL_PICTURE else max(2, round(side * _LINE))
    chosen = [colors[one.prompt_index] if colors else color_of(one.prompt_index) for one in found]
    for detections, color in zip(found, chosen, strict=True):
        for mask in detections.masks:
            _draw_mask(canvas, mask, color, weight)
    labels, corners = [], []
    for place, (detections, color) in enumerate(zip(found, chosen, strict=True)):  # so that no mask covers a label
        for row, (box, score) in enumerate(zip(detections.boxes, detections.scores, strict=True)):
            x0, y0, x1, y1 = (round(float(edge)) for edge in box)
            cv2.rectangle(canvas, (x0, y0), (x1, y1), color, max(1, weight // 2), cv2.LINE_AA)
            track = int(tracks[place][row]) if tracks else -1
            name = detections.prompt if track < 0 else f"#{track} {detections.prompt}"
            labels.append(_label(name, f"{score:.2f}", font_size(side), color, image.shape[1]))
            corners.append((x0, y0, x1, y1))
    for label, (x, y) in zip(labels, _places(corners, labels, image.shape[:2]), strict=True):
        part = canvas[y : y + label.shape[0], x : x + label.shape[1]]
        part[:] = label[: part.shape[0], : part.shape[1]]
    return canvas


def font_size(side: int) -> int:
    """Pixels to the em, on a picture whose longer side is ``side`` pixels."""
    small = _SMALLEST_FONT * min(1, side / _SMALL_PICTURE)
    return round(max(_LEAST_FONT, small, side * _FONT))


def _draw_mask(canvas: Image, mask: NDArray[np.bool_], color: Color, weight: int) -> None:
    plane = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(plane)
    if not width:
        return
    # Only where the mask is: blending whole pictures for every instance would be most of a video's time.
    area = np.s_[top : top + height, left : left + width]
    inside = np.ascontiguousarray(plane[area])
    canvas[area] = cv2.copyTo(cv2.LUT(canvas[area], _filled(color)), inside, canvas[area].copy())
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_KCOS)
    for shade, thickness in ((contrast_of(color), weight + 2), (color, weight))[weight == 1 :]:
        cv2.drawContours(canvas, outlines, -1, shade, thickness, cv2.LINE_AA, offset=(left, top))


@lru_cache(256)
def _filled(color: Color) -> NDArray[np.uint8]:
    """What each level of each channel becomes inside a mask: [1, 256, 3]."""
    levels = np.arange(256)[:, None] * (1 - _FILL) + np.asarray(color) * _FILL
    return np.rint(levels).astype(np.uint8)[None]


# --- labels -----------------------------------------------------------------------------------------------------------


def _label(name: str, score: str, size: int, color: Color, room: int) -> Image:
    """The label [h, w, 3] of one detection, of a name that is cut short where all would be wider than ``room``."""
    # In two pieces, which both come back: most labels of a video have been drawn before.
    margin = max(2, size // 5)
    number = _chip(score, size, color, margin, 2 * margin)
    text = _chip(name, size, color, 2 * margin, margin)
    letters = len(name)
    while letters and text.shape[1] + number.shape[1] > room:
        letters = max(0, min(letters - 1, letters * (room - number.shape[1]) // text.shape[1]))
        text = _chip(f"{name[:letters]}…", size, color, 2 * margin, margin)
    return np.hstack([text, number])


@lru_cache(2048)
def _chip(text: str, size: int, color: Color, left: int, right: int) -> Image:
    """``text`` on ``color``, black or white."""
    share = np.pad(coverage(text, size), ((0, 0), (left, right)))[..., None] / np.float32(255)
    ground, ink = np.asarray((color, contrast_of(color)), np.float32)
    mixed: Image = np.rint(ground + (ink - ground) * share).astype(np.uint8)
    return mixed


def _places(
    boxes: Sequence[tuple[int, int, int, int]], labels: Sequence[Image], picture: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Left and top of each label: near its box, on the picture, and off the labels before it as far as can be."""
    taken = np.zeros((len(boxes), 4))  # x0, y0, x1, y1
    for count, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        height, width = label.shape[:2]
        limit = np.maximum((picture[1] - width, picture[0] - height), 0)
        near = np.asarray(list(_candidates(box, width, height))).clip(0, limit)
        corners = np.hstack([near, near + np.asarray((width, height))])[:, None]  # [candidate, 1, 4]
        shared = np.minimum(corners[..., 2:], taken[:count, 2:]) - np.maximum(corners[..., :2], taken[:count, :2])
        covered = shared.clip(0).prod(axis=2).sum(axis=1)
        best = int(covered.argmin())
        taken[count] = corners[best, 0]
        yield int(near[best, 0]), int(near[best, 1])


def _candidates(box: tuple[int, int, int, int], width: int, height: int) -> Iterator[tuple[int, int]]:
    """Left and top of a label in the places that it may have, best first: at the box's corners, outside and then
    inside, beside it, and further and further above and below."""
    x0, y0, x1, y1 = box
    for x in (x0, x1 - width):
        yield from ((x, y0 - height), (x, y1))
    for x in (x0, x1 - width):
        yield from ((x, y0), (x, y1 - height))
    yield from ((x1, y0), (x0 - width, y0), (x1, y1 - height), (x0 - width, y1 - height))
    for row in range(1, _ROWS):
        yield from ((x0, y0 - (row + 1) * height), (x0, y1 + row * height), (x0, y0 + row * height))
