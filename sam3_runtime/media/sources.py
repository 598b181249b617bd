"""Reads images and videos from files, folders, globs and installed packages, as RGB uint8.

Specs are those of :mod:`sam3_runtime.core.source_files`. Independent of models. OpenCV's BGR is converted here and in
``sinks``, and used nowhere else.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np

from sam3_runtime.core.closing import Closing
from sam3_runtime.core.errors import SourceError, printable
from sam3_runtime.core.source_files import IMAGE_SUFFIXES, Spec, expand_images, is_video, locate
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.containers import promise_of

_LONGEST_SIDE = 1_000_000  # pixels, of a PNG: libpng's own limit
_WHITE = 65535  # of 16 bits
_DEFAULT_FPS = 25.0  # of files without a rate
_SANE_FPS = (0.01, 1000.0)  # headers with other rates are wrong: no camera and no writer has them
_VARIABLE_FPS = (10.0, 60.0)  # of the annotated video of a file with a variable rate
_LONGEST_STEP = 86400.0  # seconds from one frame to the next
_LONGEST = 1e9  # seconds; larger times are invalid
_PACED = 32  # frames from which the pace of a file is measured
_COUNT_SLACK = 0.02  # tables of some files have a frame or two more than the file
_LOST_IN_A_ROW = 50  # frames that may fail to decode before the rest counts as missing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """The header of a video: frames per second, and the number of frames, which may be an estimate, or None."""

    name: str
    fps: float
    frames: int | None


class VideoEndsEarly(SourceError):
    """Fewer frames decode than the file should have: the end is missing, or ``lost`` frames before it.

    The yielded frames are good. ``promised`` is the number of frames according to the file, None where it has none.
    """

    def __init__(self, path: Path, decoded: int, promised: int | None, lost: int = 0) -> None:
        self.decoded, self.promised, self.lost = decoded, promised, lost
        what = f"is damaged: {counted(lost, 'frame')} lost before its end" if lost else "ends early"
        rest = "the rest of the file is missing" if promised is None else f"its header promises {promised}"
        super().__init__(
            f"{path} {what}: {counted(decoded, 'frame')} could be decoded, and {rest}",
            "the file is damaged or was not copied completely; the results of the decoded frames are kept",
        )


class Frame(NamedTuple):
    """A frame of a video: its number from 0, its time in seconds from the file's timestamps, and its image."""

    number: int
    seconds: float
    image: Image


class Pace(NamedTuple):
    """The pace of the frames of a file.

    ``fps`` is the rate for writing a video of them, ``step`` the median seconds from one to the next, None if the
    file's timestamps are invalid.
    """

    fps: float
    step: float | None


def quiet_decoders() -> None:
    """Silence OpenCV and FFmpeg: a damaged file has one message, which is ours."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextmanager
def opencv_name(path: Path) -> Iterator[str]:
    """Yield ``path`` in a form that OpenCV opens.

    It is absolute, because FFmpeg takes ``12:30.mp4`` for an address, and a symbolic link if ``path`` is not UTF-8,
    which would crash OpenCV. Valid inside the block; raises ``OSError``.
    """
    name = str(path.absolute())
    if name == printable(name):
        yield name
        return
    with TemporaryDirectory() as folder:
        link = Path(folder, f"link{printable(path.suffix)}")
        link.symlink_to(name)
        yield str(link)


# --- images -----------------------------------------------------------------------------------------------------------


def load_image(spec: Spec) -> Image:
    """Read an image as RGB uint8 [H, W, 3], rotated according to its EXIF data.

    Grey is repeated to three channels, 16 bits are scaled to 8, as are 12 or 10 in 16 if no value needs more, and alpha
    is dropped (as transformers does). :class:`SourceError` for a file that is missing, damaged, or of an unsupported
    format.
    """
    path = locate(spec)
    try:
        data = np.fromfile(path, np.uint8)  # not cv2.imread: on Windows it does not take every path
    except OSError as error:
        raise SourceError(f"{spec} cannot be read: {error.strerror or error}") from None
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
        if pixels is None and data.size:  # OpenCV converts no single channel of other depths to colours
            pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise SourceError(f"{spec} has more pixels than fit into memory", "scale it down") from None
        if "CV_IO_MAX_IMAGE" in str(error):
            raise SourceError(f"{spec} has more pixels than OpenCV reads, which is 2^30", "scale it down") from None
        pixels = None
    if pixels is None:
        formats = ", ".join(IMAGE_SUFFIXES)
        raise SourceError(
            f"{spec} is not a readable image: {_guess(data)}",
            f"supported formats: {formats}; convert the file, or leave it out",
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise SourceError(
            f"{spec} has {pixels.dtype} pixels; only images of 8 and 16 bits are supported",
            "convert it to 8 bits, with the values of your choice for black and white",
        )
    return as_rgb(pixels, _white_of(pixels))


def _white_of(pixels: np.ndarray[Any, Any]) -> int:
    """Return the value of white. Cameras store 10 or 12 bits in 16; scaled by all 16, images are nearly black."""
    largest = int(pixels.max(initial=0))
    return next((2**bits - 1 for bits in (8, 10, 12) if largest < 2**bits), _WHITE)


def as_rgb(pixels: np.ndarray[Any, Any], white: int = _WHITE) -> Image:
    """Convert OpenCV's BGR, BGRA or grey of 8 or 16 bits to RGB uint8 [H, W, 3]; ``white`` is the white of 16 bits."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return np.asarray(cv2.cvtColor(pixels, code))


def _guess(data: np.ndarray[Any, Any]) -> str:
    """Return the likely content of a file that does not decode."""
    start = data[:512].tobytes()
    if not start:
        return "it is empty"
    if start.startswith(b"\x89PNG") and len(start) >= 24:
        width, height = struct.unpack(">II", start[16:24])
        if max(width, height) > _LONGEST_SIDE:
            return f"it is {width} x {height} pixels, and a side may have {_LONGEST_SIDE} at most"
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "it is damaged or cut off"
    if start.startswith((b"BM", b"II", b"MM\0", b"RIFF")):
        return "it is damaged, cut off, or of a kind that OpenCV does not support"
    if start[4:8] == b"ftyp":
        return "it is a video, HEIC or AVIF"
    is_text = all(byte in b"\t\n\r" or byte >= 32 for byte in start)
    return "it contains text" if is_text else "its format is unknown"


# --- videos -----------------------------------------------------------------------------------------------------------


class Video(Closing):
    """An open video: ``info`` is its header; iterating decodes its frames (RGB uint8 [H, W, 3]) once.

    Iterating raises :class:`VideoEndsEarly` after the last frame that decodes if there should be more. ``pace`` is
    given if it was measured before. :class:`SourceError` for a file that does not open.
    """

    def __init__(self, spec: Spec, pace: Pace | None = None) -> None:
        self._path, self._spec, self._pace = locate(spec), spec, pace
        self._capture = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._promise = promise_of(self._path)
        self._fps = fps if _SANE_FPS[0] <= fps <= _SANE_FPS[1] else None  # NaN compares false
        counted = int(frames) if math.isfinite(frames) and frames > 0 else None
        self.info = VideoInfo(
            name=printable(self._path.name),
            fps=self._fps or _DEFAULT_FPS,
            frames=counted if self._promise.frames is None else self._promise.frames,
        )

    def _open(self) -> Any:
        try:
            with opencv_name(self._path) as name:
                capture = cv2.VideoCapture(name)
        except OSError as error:
            raise SourceError(f"{self._spec} cannot be read: {error.strerror or error}", "rename the file") from None
        if not capture.isOpened():
            raise SourceError(
                f"{self._spec} cannot be opened as a video", "it is damaged, cut off, or of an unknown format"
            )
        return capture

    def __iter__(self) -> Iterator[Image]:
        for frame in self._decode():
            yield frame.image

    def frames_at(self, wanted: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """Yield the frames with these numbers (from 0), in ascending order; those between are not converted."""
        for frame in self._decode(frozenset(wanted)):
            yield frame.number, frame.image

    def count(self) -> int:
        """Count the frames that decode, which may be fewer than in the header. The video is at its end after that."""
        return sum(1 for _ in self._grab())

    def numbered(self) -> Iterator[Frame]:
        """Iterate over frames with number and time: a frame that does not decode leaves a gap in the numbers."""
        yield from self._decode(clock=_Clock(self.pace))

    @property
    def pace(self) -> Pace:
        """The pace of the first frames, by their timestamps; the rate is the header's if it agrees with them."""
        if self._pace is None:
            self._pace = self._measure()
        return self._pace

    def _measure(self) -> Pace:
        capture = self._open()
        times = [capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3 for _ in range(_PACED) if capture.grab()]
        capture.release()
        steps = sorted(later - earlier for earlier, later in pairwise(times) if later > earlier)
        median = steps[len(steps) // 2] if steps else 0.0
        if not 0.9 / _SANE_FPS[1] <= median <= _LONGEST_STEP:
            if self._fps is None:
                log.warning(
                    "%s has invalid timestamps; %g frames per second are assumed", self.info.name, self.info.fps
                )
            return Pace(self.info.fps, None)
        clock = _Clock(Pace(self.info.fps, median))
        times = [clock.read(number, time) for number, time in enumerate(times)]
        if self._fps and all(abs((time - times[0]) * self._fps - n) < 0.5 for n, time in enumerate(times)):
            return Pace(self._fps, median)
        fastest = 1 / steps[len(steps) // 10]  # shorter steps are outliers: some programs write a frame twice
        return Pace(round(min(max(fastest, _VARIABLE_FPS[0]), _VARIABLE_FPS[1]), 3), median)

    def _decode(self, wanted: frozenset[int] | None = None, clock: _Clock | None = None) -> Iterator[Frame]:
        pixels = None  # OpenCV writes the next one into it
        for number in self._grab():
            seconds = clock.read(number, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3) if clock else 0.0
            if wanted is None or number in wanted:
                decoded, pixels = self._capture.retrieve(pixels)
                if decoded:
                    yield Frame(number, seconds, as_rgb(pixels))

    def _grab(self) -> Iterator[int]:
        """Return the numbers of the frames that decode, each ready to be retrieved.

        OpenCV fails to grab a frame at the end, and likewise if one is damaged: the next ones may be good then.
        """
        expected, promised = self.info.frames or 1, self._promise.frames
        number = lost = failed = 0
        while failed == 0 or failed < min(_LOST_IN_A_ROW, expected - number):
            if self._capture.grab():
                number, lost, failed = number + failed, lost + failed, 0
                yield number
                number += 1
            else:
                failed += 1
        if promised is None:
            short = self._promise.cut
            promised = self.info.frames if self.info.frames and self.info.frames > number else None
        else:
            short = promised - number > max(self._promise.slack, _COUNT_SLACK * promised)
        if lost or short:
            raise VideoEndsEarly(self._path, number - lost, promised, lost)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class _Clock:
    """The time of each frame in seconds: the file's timestamps, corrected so that they increase.

    OpenCV returns 0 or an invalid number for a frame without a timestamp: its time is one step after the last. OpenCV
    counts from another start once FFmpeg has found the first timestamp: the differences stay. Of two frames with the
    same timestamp the second comes half a step later.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._number, self._last = -1, -(pace.step or 0.0)
        self._offset = 0.0

    def read(self, number: int, seconds: float) -> float:
        """Return the time of the frame with this number, at this time according to OpenCV."""
        step = self._pace.step
        if step is None:
            return number / self._pace.fps
        time = seconds + self._offset
        expected = self._last + (number - self._number) * step
        if not max(self._last, -1e-9) < time < _LONGEST:  # NaN compares false
            if not abs(seconds) < _LONGEST or (seconds == 0 and number):
                time = expected
            elif number and 0 <= self._last - time < step / 2:
                time = self._last + step / 2
            else:
                self._offset, time = expected - seconds, expected
        self._number, self._last = number, time
        return time


def read_video(spec: Spec, pace: Pace | None = None) -> Video:
    """Open a video file (or ``package:`` spec); :class:`SourceError` if it is missing or cannot be opened."""
    return Video(spec, pace)


def evenly_drawn_frames(spec: Spec | Sequence[Spec], count: int) -> Iterator[tuple[str, Image]]:
    """Yield ``count`` evenly spaced frames of videos and images, as (name, RGB uint8 [H, W, 3]); all if fewer exist.

    Several specs are one sequence: images first, then videos. :class:`SourceError` as above; :class:`VideoEndsEarly`
    before the first frame: a sample of half a video would not be even.
    """
    specs = [spec] if isinstance(spec, (str, Path)) else list(spec)
    videos = [one for one in specs if is_video(one)]
    images = expand_images(one for one in specs if not is_video(one))
    lengths = [_count_frames(video) for video in videos]
    total = len(images) + sum(lengths)
    # in the middle of as many equal intervals
    drawn = range(total) if count >= total else [int((index + 0.5) * total / count) for index in range(count)]
    for index in drawn:
        if index < len(images):
            yield images[index].name, load_image(images[index].path)
    start = len(images)
    for source, length in zip(videos, lengths, strict=True):
        wanted = [index - start for index in drawn if start <= index < start + length]
        start += length
        if wanted:
            with read_video(source) as video:
                for number, frame in video.frames_at(wanted):
                    yield f"{video.info.name}#{number}", frame


def _count_frames(spec: Spec) -> int:
    with read_video(spec) as video:
        return video.count()
