"""Shows and writes what was found: annotated pictures, annotated video, JSON Lines.

Every file is written to a temporary name and renamed: it is whole or not there, and a full disk is one message. Knows
detections and OpenCV, and no engine. Images are RGB here too; they become BGR on their way into a file.
"""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from typing_extensions import Self

from sam3_runtime.errors import OutputError
from sam3_runtime.files import temporary_name, write_atomically
from sam3_runtime.postprocess import Detections
from sam3_runtime.preprocess import Image

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
_MASK_OPACITY = 0.4
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_IS_UNICODE = int(cv2.__version__.partition(".")[0]) >= 5
_VIDEO_CODEC = "mp4v"


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or write elsewhere"
        ) from error


# --- drawing ----------------------------------------------------------------------------------------------------------


def color_of(prompt_index: int) -> Color:
    """The colour (RGB) of a prompt; the first eight are told apart easily, later ones are spread over the hues."""
    if prompt_index < len(_PALETTE):
        return _PALETTE[prompt_index]
    red, green, blue = colorsys.hsv_to_rgb(prompt_index * 0.618 % 1, 0.75, 0.9)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw(image: Image, found: Sequence[Detections]) -> Image:
    """A copy of ``image`` [H, W, 3] with masks, contours, boxes and labels; a colour for each prompt."""
    canvas = image.copy()
    weight = max(1, round(max(image.shape[:2]) / 500))  # line width in pixels
    for detections in found:
        color = color_of(detections.prompt_index)
        for mask in detections.masks:
            _draw_mask(canvas, mask, color, weight)
    for detections in found:  # after all masks, so that none covers a label
        color = color_of(detections.prompt_index)
        for box, score in zip(detections.boxes, detections.scores, strict=True):
            corners = [round(float(side)) for side in box]
            cv2.rectangle(canvas, corners[:2], corners[2:], color, weight, cv2.LINE_AA)
            _draw_label(canvas, f"{detections.prompt} {score:.2f}", (corners[0], corners[1]), color)
    return canvas


def _draw_mask(canvas: Image, mask: np.ndarray[Any, np.dtype[np.bool_]], color: Color, weight: int) -> None:
    plane = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(plane)
    if not width:
        return
    # Only where the mask is: blending whole pictures for every instance would be most of a video's time.
    area = np.s_[top : top + height, left : left + width]
    inside = np.ascontiguousarray(plane[area])
    solid = np.full((height, width, 3), color, np.uint8)
    blended = cv2.addWeighted(canvas[area], 1 - _MASK_OPACITY, solid, _MASK_OPACITY, 0)
    canvas[area] = cv2.copyTo(blended, inside, canvas[area].copy())
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, color, weight, cv2.LINE_AA, offset=(left, top))


def _draw_label(canvas: Image, text: str, corner: tuple[int, int], color: Color) -> None:
    """White on the prompt's colour, above the box's top left corner, moved to be on the picture."""
    height, width = canvas.shape[:2]
    size = max(0.4, max(height, width) / 1600)
    weight = max(1, round(size * 1.6))
    plain = text if _FONT_IS_UNICODE else text.encode("ascii", "replace").decode()
    (wide, tall), below = cv2.getTextSize(plain, _FONT, size, weight)
    margin = max(2, tall // 4)
    left = min(max(corner[0], 0), max(0, width - wide - 2 * margin))
    bottom = min(max(corner[1], tall + below + 2 * margin), height)
    top = bottom - tall - below - 2 * margin
    cv2.rectangle(canvas, (left, top), (left + wide + 2 * margin, bottom), color, cv2.FILLED)
    cv2.putText(
        canvas, plain, (left + margin, bottom - below - margin), _FONT, size, (255, 255, 255), weight, cv2.LINE_AA
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def write_picture(path: Path, image: Image) -> None:
    """Write RGB ``image`` in the format that the suffix of ``path`` names; :class:`OutputError` when it cannot be."""
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise OutputError(f"cannot write {path}: {path.suffix or 'no suffix'} is no picture format", "use .png or .jpg")
    with _reported(path):
        write_atomically(path, data.tobytes())


# --- video ------------------------------------------------------------------------------------------------------------


class VideoSink:
    """Writes frames (RGB uint8 [H, W, 3], all of one size) as an MP4; a context manager.

    The file appears when the block ends well; when it fails, nothing is left. :class:`OutputError` when the video
    cannot be opened, or is not whole on the disk in the end.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        # OpenCV chooses the container by the suffix, so the temporary name keeps it.
        self._temporary = temporary_name(path).with_suffix(f".part{path.suffix}")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: Image) -> None:
        if self._writer is None:
            self._open(frame)
        if frame.shape[:2] != self._size:
            raise OutputError(f"cannot write {self.path}: its frames change from {self._size} to {frame.shape[:2]}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def _open(self, frame: Image) -> None:
        with _reported(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width = self._size = frame.shape[:2]
        codec = cv2.VideoWriter.fourcc(*_VIDEO_CODEC)
        self._writer = cv2.VideoWriter(str(self._temporary), codec, self.fps, (width, height))
        if not self._writer.isOpened():
            raise OutputError(
                f"cannot write {self.path}: no video writer opens there ({width} x {height}, {_VIDEO_CODEC})",
                "check that the folder can be written and has space",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and self.frames:
                self._check()
                with _reported(self.path):
                    os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        """OpenCV does not say when the disk is full: read back what it wrote."""
        capture = cv2.VideoCapture(str(self._temporary))
        written = 0
        while capture.grab():
            written += 1
        capture.release()
        if written < self.frames:
            raise OutputError(
                f"cannot write {self.path}: of {self.frames} frames {written} are on the disk",
                "free some space, or write elsewhere",
            )


# --- JSON Lines -------------------------------------------------------------------------------------------------------


class JsonLines:
    """A file of one JSON object a line; a context manager. It appears when the block ends well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_name(path)
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed on exit)

    def write(self, line: Mapping[str, Any]) -> None:
        with _reported(self.path):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _reported(self.path):
                self._file.close()  # writes what is buffered: here a full disk shows
                if kind is None:
                    os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def as_line(size: tuple[int, int], found: Sequence[Detections]) -> dict[str, Any]:
    """What is written about one picture of ``size`` (height, width): every detection, with its mask as COCO's RLE."""
    return {
        "width": size[1],
        "height": size[0],
        "detections": [
            {
                "prompt": one.prompt,
                "score": round(float(score), 6),
                "box": [round(float(x), 3) for x in box],
                "mask": rle,
            }
            for one in found
            for score, box, rle in zip(one.scores, one.boxes, one.rle(), strict=True)
        ],
    }
