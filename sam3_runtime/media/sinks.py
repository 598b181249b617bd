"""Writes results: images, video, JSON Lines.

Every file is written to a temporary name and renamed: it is whole or absent, and a full disk is one message. The lines
of a live source, which may never end, can be read during the run. Images are RGB; OpenCV's BGR is used only for writing
files. Independent of engines.
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
from sam3_runtime.media.containers import promise_of
from sam3_runtime.media.sources import opencv_name

_VIDEO_CODEC = "mp4v"
_DISK_RESERVE = 1 << 20  # bytes that are left free to close a video
_LONGEST_SIDE = 8190  # pixels, of the codec
LONGEST_STILL = 60.0
"""The longest time in seconds for which one frame of a file is shown: a jump of its clock would fill the disk."""
_FREE_SPACE = "free some space, or write elsewhere"


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` about writing ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", _FREE_SPACE) from error


# --- images -----------------------------------------------------------------------------------------------------------


def write_image(path: Path, image: Image) -> None:
    """Write ``image`` (RGB uint8 [H, W, 3]) in the format of the suffix of ``path``; raises :class:`OutputError`."""
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise OutputError(
            f"cannot write {path}: {path.suffix or 'no suffix'} is not an image format", "use .png or .jpg"
        )
    with reported(path):
        write_atomically(path, data.tobytes())


# --- video ------------------------------------------------------------------------------------------------------------


class VideoSink:
    """Writes frames (RGB uint8 [H, W, 3]) as an MP4 with a constant rate; a context manager.

    A frame with a time is repeated until the next one, for at most ``longest`` seconds; a frame less than half a frame
    after the last is skipped. The first frame sets the size: the codec's sides are even and at most 8190, and frames of
    another size are fitted in, on black. ``changes`` are messages about differences from the given frames.

    The file appears when the block ends without error, or with :meth:`close`; otherwise nothing is left.
    :class:`OutputError` if the video cannot be opened, if frames are missing in the file, or when the disk is almost
    full: then :meth:`close` still keeps the frames up to there.
    """

    def __init__(self, path: Path, fps: float, longest: float = LONGEST_STILL) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        self.changes: list[str] = []
        self._longest = max(1, round(longest * fps))
        self._first: float | None = None
        self._last: Any = None
        self._shortened = 0
        # OpenCV chooses the container by the suffix, so the temporary name is that of a folder.
        self._temporary = temporary_name(path) / f"video{path.suffix}"
        self._writer: Any = None
        self._size = (0, 0)  # height and width, once the first frame is written

    def write(self, frame: Image, seconds: float | None = None) -> None:
        """Write a frame, at the time ``seconds`` or directly after the last one."""
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
        """How many frames to write so that the last one is at this time."""
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
        given = frame.shape[:2]
        scale = min(1.0, _LONGEST_SIDE / max(given))
        height, width = self._size = (_even(given[0] * scale), _even(given[1] * scale))
        if self._size != given:
            source = f"its frames are {given[1]} x {given[0]}"
            self.changes.append(f"{self.path.name} is {width} x {height} pixels, the nearest size for MP4; {source}")
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
        """OpenCV does not report a full disk, and closing an MP4 needs some space for its table."""
        with reported(self.path):
            free = shutil.disk_usage(self.path.parent).free
        if free < _DISK_RESERVE:
            written = counted(self.frames, "frame")
            raise OutputError(
                f"cannot write {self.path}: the disk is full but for {free >> 10} KiB (after {written})", _FREE_SPACE
            )

    def close(self, keep: bool = True) -> None:
        """Finish the file and rename it, or, without ``keep``, remove it."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        try:
            if keep and self.frames:
                self._check()
                with reported(self.path):
                    os.replace(self._temporary, self.path)
        finally:
            shutil.rmtree(self._temporary.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=kind is None)

    def _check(self) -> None:
        """Check that the file and its table of frames are complete."""
        promise = promise_of(self._temporary)
        if promise.cut or promise.frames is None or promise.frames < self.frames:
            raise OutputError(
                f"cannot write {self.path}: not all of its {counted(self.frames, 'frame')} are on the disk", _FREE_SPACE
            )


def _even(side: float) -> int:
    return -(-round(side) // 2) * 2


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """Return ``image`` ([H, W, 3]) with ``size`` (height, width): scaled to fit in, on black.

    If only one row or column is missing, the last one is repeated instead.
    """
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
    """A file with one JSON object per line; a context manager.

    It appears when the block ends without error, or with :meth:`close`.

    A ``live`` file has its name from the first line on and keeps every line, whatever ends the block or the process; a
    killed process may leave half a line at its end. :class:`OutputError` if it cannot be written.
    """

    def __init__(self, path: Path, live: bool = False) -> None:
        self.path = path
        self._temporary = path if live else temporary_name(path)
        buffering = 1 if live else -1  # by lines
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Lone surrogates, which UTF-8 cannot encode, become JSON escapes.
            self._file = open(  # noqa: SIM115 (closed on exit)
                self._temporary, "w", buffering, encoding="utf-8", errors="backslashreplace", newline="\n"
            )

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with reported(self.path):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self, keep: bool = True) -> None:
        """Finish the file and rename it, or, without ``keep``, remove it (not a live one)."""
        try:
            with reported(self.path):
                self._file.close()  # writes the buffer: a full disk shows here
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
        self.close(keep=kind is None)


def as_line(
    size: tuple[int, int], found: Sequence[Detections], tracks: Sequence[NDArray[np.int64]] | None = None
) -> dict[str, Any]:
    """Return the JSON line of one image of ``size`` (height, width): its detections, with masks as COCO's RLE.

    With ``tracks``, each detection has its identity as ``track``: a number, or null.
    """
    lines = [
        {"prompt": one.prompt, "score": round(float(score), 6), "box": [round(float(x), 3) for x in box], "mask": rle}
        for one in found
        for score, box, rle in zip(one.scores, one.boxes, one.rle(), strict=True)
    ]
    if tracks is not None:
        for line, track in zip(lines, (int(track) for row in tracks for track in row), strict=True):
            line["track"] = track if track >= 0 else None
    return {"width": size[1], "height": size[0], "detections": lines}
