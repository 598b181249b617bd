"""Writes what was found: pictures, video, JSON Lines.

Every file is written to a temporary name and renamed: it is whole or not there, and a full disk is one message. The
lines of a live source, which may never end, are there as they come. Knows detections and OpenCV, and no engine. Images
are RGB here too; they become BGR on their way into a file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sam3_runtime.core.errors import OutputError
from sam3_runtime.core.files import temporary_name, write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import opencv_name

_VIDEO_CODEC = "mp4v"
_DISK_RESERVE = 1 << 20  # bytes that writing a video leaves free: it is closed with them
_FRAMES_CHECKED = 16
_LONGEST_SIDE = 8190  # pixels: what the codec takes
LONGEST_STILL = 60.0
"""Seconds for which one frame of a file is shown at most: a clock that jumps by days would fill the disk."""


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or write elsewhere"
        ) from error


# --- pictures ---------------------------------------------------------------------------------------------------------


def write_picture(path: Path, image: Image) -> None:
    """Write RGB ``image`` in the format that the suffix of ``path`` names; :class:`OutputError` when it cannot be."""
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise OutputError(f"cannot write {path}: {path.suffix or 'no suffix'} is no picture format", "use .png or .jpg")
    with reported(path):
        write_atomically(path, data.tobytes())


# --- video ------------------------------------------------------------------------------------------------------------


class VideoSink:
    """Writes frames (RGB uint8 [H, W, 3]) as an MP4 of one rate; a context manager.

    Frames that have times are shown at those: again and again until the next one, for ``longest`` seconds at most; one
    that comes less than half a frame behind the last is not shown. The first frame gives the size: the codec's are even
    and at most 8190, and what is not of that size is fitted in, on black. ``changes`` says what could not be kept.

    The file appears when the block ends well, or with :meth:`close`; when the block fails, nothing is left.
    :class:`OutputError` when the video cannot be opened, is not whole on the disk in the end, or when the disk is
    about to be full: what was written may still be closed then.
    """

    def __init__(self, path: Path, fps: float, longest: float = LONGEST_STILL) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        self.changes: list[str] = []
        self._longest = max(1, round(longest * fps))
        self._first: float | None = None
        self._last: Any = None
        self._shortened = 0
        # OpenCV chooses the container by the suffix, so it is a folder that has the temporary name.
        self._temporary = temporary_name(path) / f"video{path.suffix}"
        self._writer: Any = None
        self._size = (0, 0)  # height and width, once the first frame is written

    def write(self, frame: Image, seconds: float | None = None) -> None:
        """Write a frame, ``seconds`` its time; behind the last where it has none."""
        if self._writer is None:
            self._open(frame)
        pixels = cv2.cvtColor(fitted(frame, self._size), cv2.COLOR_RGB2BGR)
        missing = 1 if seconds is None else self._missing(seconds)
        for _ in range(missing - 1):
            self._write(self._last)
        if missing > 0:
            self._write(pixels)
        self._last = pixels

    def _missing(self, seconds: float) -> int:
        """How many frames there are to be written, so that one of this time is the last of them."""
        self._first = seconds if self._first is None else self._first
        missing = round((seconds - self._first) * self.fps) + 1 - self._shortened - self.frames
        if missing > self._longest:
            if not self._shortened:
                self.changes.append(f"{self.path.name} shows no frame for more than {self._longest / self.fps:g} s")
            self._shortened += missing - self._longest
        return min(missing, self._longest)

    def _write(self, pixels: Any) -> None:
        self._check_space()
        self._writer.write(pixels)
        self.frames += 1

    def _open(self, frame: Image) -> None:
        with reported(self.path):
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
        given = height, width = frame.shape[0], frame.shape[1]
        scale = min(1.0, _LONGEST_SIDE / max(given))
        height, width = self._size = (_even(height * scale), _even(width * scale))
        if self._size != given:
            frames = f"not {given[1]} x {given[0]} as its frames"
            self.changes.append(f"{self.path.name} is {width} x {height} pixels, as MP4 has it, {frames}")
        codec = cv2.VideoWriter.fourcc(*_VIDEO_CODEC)
        with reported(self.path), opencv_name(self._temporary) as name:
            self._writer = cv2.VideoWriter(name, codec, self.fps, (width, height))
        if not self._writer.isOpened():
            what = f"{width} x {height}, {counted(self.fps, 'frame')} a second, {_VIDEO_CODEC}"
            raise OutputError(
                f"cannot write {self.path}: no video writer opens there ({what})",
                "check that the folder can be written and has space",
            )

    def _check_space(self) -> None:
        """OpenCV does not say when the disk is full; an MP4 needs some of it for its table when it is closed."""
        with reported(self.path):
            free = shutil.disk_usage(self.path.parent).free
        if free < _DISK_RESERVE:
            written = counted(self.frames, "frame")
            raise OutputError(
                f"cannot write {self.path}: the disk is full but for {free >> 10} KiB (after {written})",
                "free some space, or write elsewhere",
            )

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._release()
        try:
            if self.frames:
                self._check()
                with reported(self.path):
                    os.replace(self._temporary, self.path)
        finally:
            self._forget()

    def _forget(self) -> None:
        shutil.rmtree(self._temporary.parent, ignore_errors=True)

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._release()
            self._forget()

    def _check(self) -> None:
        """Read back some of what was written, the last frame among it: whether all of it is there."""
        with opencv_name(self._temporary) as name:
            capture = cv2.VideoCapture(name)
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        step = max(1, self.frames // _FRAMES_CHECKED)
        missing = 0
        for number in range(self.frames - 1, -1, -step) if promised >= self.frames else ():
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            missing += not capture.grab()
        capture.release()
        if promised < self.frames or missing:
            raise OutputError(
                f"cannot write {self.path}: the disk does not have all of its {counted(self.frames, 'frame')}",
                "free some space, or write elsewhere",
            )


def _even(side: float) -> int:
    return -(-round(side) // 2) * 2


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """``image`` as it is, or, where it is not of ``size`` (height, width), made to fit in there, on black. One row or
    column that is missing repeats the last."""
    rows, columns = size[0] - image.shape[0], size[1] - image.shape[1]
    if {rows, columns} <= {0, 1}:
        return np.pad(image, ((0, rows), (0, columns), (0, 0)), "edge") if rows or columns else image
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return canvas


# --- JSON Lines -------------------------------------------------------------------------------------------------------


class JsonLines:
    """A file of one JSON object a line; a context manager. It appears when the block ends well, or with
    :meth:`close`.

    One that is ``live`` has its name from the first line on and holds every line that was written, whatever ends the
    block or the process. A process that is killed may leave half a line at its end.
    """

    def __init__(self, path: Path, live: bool = False) -> None:
        self.path = path
        self._temporary = path if live else temporary_name(path)
        buffering = 1 if live else -1  # by lines
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # JSON's own escape stands for what is no Unicode.
            self._file = open(  # noqa: SIM115 (closed on exit)
                self._temporary, "w", buffering, encoding="utf-8", errors="backslashreplace", newline="\n"
            )

    def write(self, line: Mapping[str, Any]) -> None:
        with reported(self.path):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._end(keep=True)

    def _end(self, keep: bool) -> None:
        try:
            with reported(self.path):
                self._file.close()  # writes what is buffered: here a full disk shows
                if keep:
                    os.replace(self._temporary, self.path)
        finally:
            if self._temporary != self.path:
                self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(keep=kind is None)


def as_line(
    size: tuple[int, int], found: Sequence[Detections], tracks: Sequence[NDArray[np.int64]] | None = None
) -> dict[str, Any]:
    """What is written about one picture of ``size`` (height, width): every detection, with its mask as COCO's RLE.

    Where ``tracks`` are given, each has its identity as ``track``: a number, or null.
    """
    lines = [
        {
            "prompt": one.prompt,
            "score": round(float(score), 6),
            "box": [round(float(x), 3) for x in box],
            "mask": rle,
        }
        for one in found
        for score, box, rle in zip(one.scores, one.boxes, one.rle(), strict=True)
    ]
    if tracks is not None:
        for line, track in zip(lines, (int(track) for row in tracks for track in row), strict=True):
            line["track"] = track if track >= 0 else None
    return {"width": size[1], "height": size[0], "detections": lines}
