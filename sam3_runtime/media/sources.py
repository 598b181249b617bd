"""Reads pictures and videos from files, folders, globs and installed packages, as RGB uint8.

``package:skimage/data/coffee.png`` is a file that an installed Python package ships; the package is not imported.
A name that is not UTF-8 is read like any other, and shown by ``errors.printable``. Knows OpenCV and nothing of models.
OpenCV's order is BGR, and it goes no further than this module and ``sinks``.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np

from sam3_runtime.core.closing import Closing
from sam3_runtime.core.errors import SourceError, printable
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.containers import promise_of
from sam3_runtime.media.source_files import IMAGE_SUFFIXES, Spec, expand_images, is_video, locate

_LONGEST_SIDE = 1_000_000  # pixels, of a PNG: libpng's own limit
_WHITE = 65535  # of 16 bits
_DEFAULT_FPS = 25.0  # for files that do not say
_SANE_FPS = (0.01, 1000.0)  # headers of other rates are wrong: no camera and no writer has them
_VARIABLE_FPS = (10.0, 60.0)  # of what is written where frames come as they like
_LONGEST_STEP = 86400.0  # seconds from one frame to the next
_LONGEST = 1e9  # seconds; more is no time
_PACED = 32  # frames that show how a file's frames follow each other
_COUNT_SLACK = 0.02  # tables of some files promise a frame or two more than their frames
_LOST_IN_A_ROW = 50  # frames that may fail to decode before the rest counts as missing


log = logging.getLogger(__name__)


class OnDisk(Protocol):
    """What lies in a file."""

    @property
    def path(self) -> Path: ...


Listed = TypeVar("Listed", bound=OnDisk)


def load_all(listed: Iterable[Listed], problem: Callable[[SourceError], object]) -> list[tuple[Listed, Image]]:
    """Those that can be read, each with its image; ``problem`` is told of the others."""
    read = []
    for one in listed:
        try:
            read.append((one, load_image(one.path)))
        except SourceError as error:
            problem(error)
    return read


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says. ``frames`` is None where it does not tell, and may be an estimate where it does; the
    size is in pixels."""

    name: str
    width: int
    height: int
    fps: float
    frames: int | None


class VideoEndsEarly(SourceError):
    """Fewer frames decode than there should be: the end is missing, or ``lost`` frames before it. What was yielded is
    good. ``promised`` is None where the file does not say how many there are."""

    def __init__(self, path: Path, decoded: int, promised: int | None, lost: int = 0) -> None:
        self.decoded, self.promised, self.lost = decoded, promised, lost
        what = f"is damaged: {counted(lost, 'frame')} lost before its end" if lost else "ends early"
        rest = "the rest of the file is missing" if promised is None else f"its header promises {promised}"
        super().__init__(
            f"{path} {what}: {counted(decoded, 'frame')} could be decoded, and {rest}",
            "the file is damaged or was not copied whole; what could be read is kept",
        )


class Frame(NamedTuple):
    """A frame of a video: its number from 0, its time by the file's own clock, and its pixels."""

    number: int
    seconds: float
    image: Image


class Pace(NamedTuple):
    """How frames follow each other: the rate at which a video of them is written, and the seconds from most frames to
    the next; None where the file's times cannot be believed."""

    fps: float
    step: float | None


@contextmanager
def opencv_name(path: Path) -> Iterator[str]:
    """``path`` as OpenCV opens a video by: absolute, because FFmpeg takes ``12:30.mp4`` for an address, and, where it
    is not UTF-8, on which OpenCV ends the process, through a symbolic link. Good inside the block; ``OSError``."""
    name = str(path.absolute())
    if name == printable(name):
        yield name
        return
    with TemporaryDirectory() as folder:
        link = Path(folder, f"link{printable(path.suffix)}")
        link.symlink_to(name)
        yield str(link)


# --- pictures ---------------------------------------------------------------------------------------------------------


def load_image(spec: Spec) -> Image:
    """Read a picture as RGB uint8 [H, W, 3], upright as its EXIF data says.

    Grey is repeated to three channels, 16 bits become 8 by scaling, as do 12 or 10 in 16 where no value needs more, and
    alpha is dropped (as transformers does). :class:`SourceError` for what is missing, is no picture, or is one that is
    not read.
    """
    path = locate(spec)
    try:
        data = np.fromfile(path, np.uint8)  # not cv2.imread: on Windows it does not take every path
    except OSError as error:
        raise SourceError(f"{spec} cannot be read: {error.strerror or error}") from None
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
        if pixels is None and data.size:  # of one channel and other depths OpenCV makes no colours
            pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise SourceError(f"{spec} has more pixels than fit into memory", "scale it down") from None
        if "CV_IO_MAX_IMAGE" in str(error):
            raise SourceError(f"{spec} has more pixels than OpenCV reads, which is 2^30", "scale it down") from None
        pixels = None
    if pixels is None:
        raise SourceError(f"{spec} is no picture that can be read: {_guess(data)}", _convert_hint())
    if pixels.dtype not in (np.uint8, np.uint16):
        raise SourceError(
            f"{spec} has {pixels.dtype} pixels; pictures of 8 and 16 bits are read",
            "convert it to 8 bits: which of its values are black and white is for you to say",
        )
    return as_rgb(pixels, _white_of(pixels))


def _white_of(pixels: np.ndarray[Any, Any]) -> int:
    """The value of white: 12 or 10 bits in 16, as cameras write them, are nearly black where all 16 count."""
    largest = int(pixels.max(initial=0))
    return next((2**bits - 1 for bits in (8, 10, 12) if largest < 2**bits), _WHITE)


def as_rgb(pixels: np.ndarray[Any, Any], white: int = _WHITE) -> Image:
    """What OpenCV gives, BGR, BGRA or grey of 8 or 16 bits, as RGB uint8 [H, W, 3]; ``white`` is that of 16 bits."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return np.asarray(cv2.cvtColor(pixels, code))


def _convert_hint() -> str:
    return f"formats that are read: {', '.join(IMAGE_SUFFIXES)}; convert the file, or leave it out"


def _guess(data: np.ndarray[Any, Any]) -> str:
    """What a file that does not decode seems to be."""
    start = data[:512].tobytes()
    if not start:
        return "it is empty"
    if start.startswith(b"\x89PNG") and len(start) >= 24:
        width, height = struct.unpack(">II", start[16:24])
        if max(width, height) > _LONGEST_SIDE:
            return f"it is {width} x {height} pixels, more than a side may have"
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "it is damaged or cut off"
    if start.startswith((b"BM", b"II", b"MM\0", b"RIFF")):
        return "it is damaged, cut off, or of a kind that OpenCV does not read"
    if start[4:8] == b"ftyp":
        return "it is a video, HEIC or AVIF"
    printable = sum(byte in b"\t\n\r" or byte >= 32 for byte in start)
    return "it holds text" if printable == len(start) and b"\0" not in start else "its format is not known"


# --- videos -----------------------------------------------------------------------------------------------------------


class Video(Closing):
    """An open video: ``info`` is what its header says, iterating decodes its frames (RGB uint8 [H, W, 3]) once.

    Iterating raises :class:`VideoEndsEarly` after the last frame that decodes where there should be more. ``pace`` is
    known where the file was open before.
    """

    def __init__(self, spec: Spec, pace: Pace | None = None) -> None:
        self._path, self._spec, self._pace = locate(spec), spec, pace
        self._capture = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._promise = promise_of(self._path)
        self._fps = fps if _SANE_FPS[0] <= fps <= _SANE_FPS[1] else None  # not a number compares false
        counted = int(frames) if math.isfinite(frames) and frames > 0 else None
        self.info = VideoInfo(
            name=printable(self._path.name),
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
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
                f"{self._spec} is no video that can be opened", "it is damaged, cut off, or of an unknown format"
            )
        return capture

    def __iter__(self) -> Iterator[Image]:
        for frame in self._decode():
            yield frame.image

    def frames_at(self, wanted: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """The frames of these numbers (from 0), in ascending order; those between are skipped, not converted."""
        for frame in self._decode(frozenset(wanted)):
            yield frame.number, frame.image

    def count(self) -> int:
        """The frames that really decode: a header may promise what is not there. Uses the video up."""
        return sum(1 for _ in self._grab())

    def numbered(self) -> Iterator[Frame]:
        """As iterating, each frame with its number and time: a frame that does not decode leaves a gap."""
        yield from self._decode(clock=_Clock(self.pace))

    @property
    def pace(self) -> Pace:
        """How its first frames follow each other, as their own times have it; the header's rate where they agree."""
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
                log.warning("%s has no possible times; it counts as %g frames a second", self.info.name, self.info.fps)
            return Pace(self.info.fps, None)
        clock = _Clock(Pace(self.info.fps, median))
        times = [clock.read(number, time) for number, time in enumerate(times)]
        if self._fps and all(abs((time - times[0]) * self._fps - n) < 0.5 for n, time in enumerate(times)):
            return Pace(self._fps, median)
        fastest = 1 / steps[len(steps) // 10]  # fewer are chance: some programs write a frame twice
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
        """The numbers of the frames that decode, each ready to be retrieved. OpenCV says that it could not grab a
        frame at the end, and likewise where one is damaged: there the next ones may be good."""
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
        self._capture.release()


class _Clock:
    """The time of each frame: the file's own, made to grow.

    OpenCV gives 0 or nonsense where a frame has no time: it comes a step behind the last. It counts from another start
    once FFmpeg has found the first one: what follows keeps its distances. Of two frames at one time the second comes
    half a step later.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._number, self._last = -1, -(pace.step or 0.0)
        self._offset = 0.0

    def read(self, number: int, seconds: float) -> float:
        """The time of a frame that has this number, and by OpenCV this time."""
        step = self._pace.step
        if step is None:
            return number / self._pace.fps
        time = seconds + self._offset
        expected = self._last + (number - self._number) * step
        if not max(self._last, -1e-9) < time < _LONGEST:  # not a number compares false
            if not abs(seconds) < _LONGEST or (seconds == 0 and number):
                time = expected
            elif number and 0 <= self._last - time < step / 2:
                time = self._last + step / 2
            else:
                self._offset, time = expected - seconds, expected
        self._number, self._last = number, time
        return time


def read_video(spec: Spec, pace: Pace | None = None) -> Video:
    """Open a video file (or ``package:`` spec); :class:`SourceError` when it is missing or cannot be opened."""
    return Video(spec, pace)


def evenly_drawn_frames(spec: Spec | Sequence[Spec], count: int) -> Iterator[tuple[str, Image]]:
    """``count`` frames of a video, or pictures of folders, globs and files, evenly spaced; all where fewer exist.

    Yields (name, RGB uint8 [H, W, 3]). Several specs are drawn from as one row: pictures first, then videos.
    :class:`SourceError` as above; :class:`VideoEndsEarly` before the first frame: a draw from half a video is not even.
    """
    specs = [spec] if isinstance(spec, (str, Path)) else list(spec)
    videos = [one for one in specs if is_video(one)]
    pictures = expand_images(one for one in specs if not is_video(one))
    lengths = [_count_frames(video) for video in videos]
    drawn = _evenly(len(pictures) + sum(lengths), count)
    for index in drawn:
        if index < len(pictures):
            yield pictures[index].name, load_image(pictures[index].path)
    start = len(pictures)
    for source, length in zip(videos, lengths, strict=True):
        wanted = [index - start for index in drawn if start <= index < start + length]
        start += length
        if wanted:
            with read_video(source) as video:
                for number, frame in video.frames_at(wanted):
                    yield f"{video.info.name}#{number}", frame


def _evenly(total: int, count: int) -> list[int]:
    """``count`` of ``range(total)``, in the middle of as many equal stretches; everything where ``count`` is more."""
    if count >= total:
        return list(range(total))
    return [int((index + 0.5) * total / count) for index in range(count)]


def _count_frames(spec: Spec) -> int:
    with read_video(spec) as video:
        return video.count()
