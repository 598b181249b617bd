"""Draws detections on a copy of an image: outlines with a light fill, boxes, and labels that do not overlap.

A prompt may name a colour, so the fill is light and leaves the object's colour visible. The outline has a black or
white border, so it is visible on any background.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sam3_runtime.imaging.boxes import intersection
from sam3_runtime.imaging.fonts import coverage
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image

Color = tuple[int, int, int]
_PALETTE: tuple[Color, ...] = (
    (230, 60, 60), (40, 130, 240), (50, 180, 75), (245, 170, 30),
    (160, 70, 220), (20, 190, 190), (240, 90, 190), (150, 110, 60),
)  # fmt: skip
_FILL = 0.15  # opacity of the prompt's colour inside a mask
_LINE, _FONT = 1 / 640, 1 / 72  # line width and font size, as shares of the image's longer side
_SMALL_FONT, _SMALL_IMAGE = 12, 192  # pixels; the font shrinks on smaller images
_LEAST_FONT = 7
_ROWS = 6  # label heights that a label moves up or down to be free


def color_of(prompt_index: int) -> Color:
    """Return the RGB colour of a prompt: one of eight distinct ones, then colours spread over the hues."""
    if prompt_index < len(_PALETTE):
        return _PALETTE[prompt_index]
    red, green, blue = colorsys.hsv_to_rgb(prompt_index * 0.618 % 1, 0.75, 0.9)
    return int(red * 255), int(green * 255), int(blue * 255)


def contrast_of(color: Color) -> Color:
    """Return black or white, whichever has the higher contrast to ``color``: at least 4.5 to 1 (WCAG)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(color, 255)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def draw(
    image: Image,
    found: Sequence[Detections],
    colors: Sequence[Color] | None = None,
    tracks: Sequence[NDArray[np.int64]] | None = None,
) -> Image:
    """Return a copy of ``image`` (RGB uint8 [H, W, 3]) with the masks, boxes and labels of ``found``.

    ``colors`` are indexed by ``prompt_index``; without them, each prompt has its :func:`color_of`. ``tracks`` has the
    track ids of each entry of ``found``, int64 [K]; ids of 0 and above are part of the label.
    """
    canvas = image.copy()
    side = max(image.shape[:2])
    weight = 1 if side < _SMALL_IMAGE else max(2, round(side * _LINE))
    chosen = [colors[one.prompt_index] if colors else color_of(one.prompt_index) for one in found]
    for detections, color in zip(found, chosen, strict=True):
        for mask in detections.masks:
            _draw_mask(canvas, mask, color, weight)
    labels, corners = [], []
    for index, (detections, color) in enumerate(zip(found, chosen, strict=True)):  # later, so no mask covers a label
        for row, (box, score) in enumerate(zip(detections.boxes, detections.scores, strict=True)):
            x0, y0, x1, y1 = (round(float(edge)) for edge in box)
            cv2.rectangle(canvas, (x0, y0), (x1, y1), color, max(1, weight // 2), cv2.LINE_AA)
            track = int(tracks[index][row]) if tracks else -1
            name = detections.prompt if track < 0 else f"#{track} {detections.prompt}"
            labels.append(_label(name, f"{score:.2f}", font_size(side), color, image.shape[1]))
            corners.append((x0, y0, x1, y1))
    for label, (x, y) in zip(labels, _label_positions(corners, labels, image.shape[:2]), strict=True):
        part = canvas[y : y + label.shape[0], x : x + label.shape[1]]
        part[:] = label[: part.shape[0], : part.shape[1]]
    return canvas


def font_size(side: int) -> int:
    """Return the font size in pixels to the em, for an image whose longer side is ``side`` pixels."""
    small = _SMALL_FONT * min(1, side / _SMALL_IMAGE)
    return round(max(_LEAST_FONT, small, side * _FONT))


def _draw_mask(canvas: Image, mask: NDArray[np.bool_], color: Color, weight: int) -> None:
    plane = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(plane)
    if not width:
        return
    # Only the mask's box: blending the whole image for every instance would dominate the time of a video.
    area = np.s_[top : top + height, left : left + width]
    inside = np.ascontiguousarray(plane[area])
    canvas[area] = cv2.copyTo(cv2.LUT(canvas[area], _filled(color)), inside, canvas[area].copy())
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_KCOS)
    for shade, thickness in ((contrast_of(color), weight + 2), (color, weight))[weight == 1 :]:
        cv2.drawContours(canvas, outlines, -1, shade, thickness, cv2.LINE_AA, offset=(left, top))


@lru_cache(256)
def _filled(color: Color) -> NDArray[np.uint8]:
    """Lookup table of the fill: [1, 256, 3], from a channel's level to that inside a mask."""
    levels = np.arange(256)[:, None] * (1 - _FILL) + np.asarray(color) * _FILL
    return np.rint(levels).astype(np.uint8)[None]


# --- labels -----------------------------------------------------------------------------------------------------------


def _label(name: str, score: str, size: int, color: Color, width: int) -> Image:
    """Return the label [h, w, 3] of one detection; the name is cut where the label would exceed ``width``."""
    # Two pieces, both cached: most labels of a video repeat.
    margin = max(2, size // 5)
    number = _chip(score, size, color, margin, 2 * margin)
    text = _chip(name, size, color, 2 * margin, margin)
    letters = len(name)
    while letters and text.shape[1] + number.shape[1] > width:
        letters = max(0, min(letters - 1, letters * (width - number.shape[1]) // text.shape[1]))
        text = _chip(f"{name[:letters]}…", size, color, 2 * margin, margin)
    return np.hstack([text, number])


@lru_cache(2048)
def _chip(text: str, size: int, color: Color, left: int, right: int) -> Image:
    """``text`` in black or white on ``color``."""
    share = np.pad(coverage(text, size), ((0, 0), (left, right)))[..., None] / np.float32(255)
    ground, ink = np.asarray((color, contrast_of(color)), np.float32)
    mixed: Image = np.rint(ground + (ink - ground) * share).astype(np.uint8)
    return mixed


def _label_positions(
    boxes: Sequence[tuple[int, int, int, int]], labels: Sequence[Image], image: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Left and top of each label: the candidate inside the image that covers the least of the labels before it."""
    taken = np.zeros((len(boxes), 4))  # x0, y0, x1, y1
    for count, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        height, width = label.shape[:2]
        limit = np.maximum((image[1] - width, image[0] - height), 0)
        near = np.asarray(list(_candidates(box, width, height))).clip(0, limit)
        corners = np.hstack([near, near + np.asarray((width, height))])[:, None]  # [candidate, 1, 4]
        best = int(intersection(corners, taken[:count]).sum(axis=1).argmin())
        taken[count] = corners[best, 0]
        yield int(near[best, 0]), int(near[best, 1])


def _candidates(box: tuple[int, int, int, int], width: int, height: int) -> Iterator[tuple[int, int]]:
    """Positions (left, top) of a label, best first.

    At the corners of the box, outside and then inside, beside the box, and further above and below.
    """
    x0, y0, x1, y1 = box
    for x in (x0, x1 - width):
        yield from ((x, y0 - height), (x, y1))
    for x in (x0, x1 - width):
        yield from ((x, y0), (x, y1 - height))
    yield from ((x1, y0), (x0 - width, y0), (x1, y1 - height), (x0 - width, y1 - height))
    for row in range(1, _ROWS):
        yield from ((x0, y0 - (row + 1) * height), (x0, y1 + row * height), (x0, y0 + row * height))
