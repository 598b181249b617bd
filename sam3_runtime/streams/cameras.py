"""What a run looks at: pictures in order, video files, cameras and addresses, each as frames of one source.

    photos/, 'photos/*.jpg', frames_%05d.png   one source: its pictures in the order of their numbers
    a.mp4, videos/                             a source for each video
    camera:0, rtsp://…, http://…               a live source: a camera of this machine, or an address

Knows specs, names and OpenCV's captures; knows no thread and no model. A password in an address is in no name and in no
message.
"""

from __future__ import annotations

import copy
import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import cv2

from sam3_runtime.core.errors import SourceError, printable
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.source_files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    LeftOut,
    by_suffix,
    expand_images,
    is_video,
    locate,
    matches_of,
    shortened,
    unique,
)
from sam3_runtime.media.sources import Frame, as_rgb, load_image, read_video

log = logging.getLogger(__name__)
CAMERA = "camera:"
PICTURES_FPS = 25.0
"""Frames a second that pictures stand for, where nothing else is said."""
_ADDRESS = re.compile(r"(rtsps?|https?|rtmps?|srt|udp|tcp)://", re.IGNORECASE)
_NUMBERED = re.compile(r"%0?(\d*)d")
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f]+')
_OPEN_MS, _READ_MS = 10_000, 10_000  # OpenCV's own limits, where a backend has them: 30 s each by default

Frames = Generator[Frame, None, None]
Problem = Callable[[SourceError], None]
"""Told of a frame that cannot be read while the frames behind it can."""


class Source(ABC):
    """Frames in order. ``name`` is unique in a run and fit for a file's name; ``fps`` is how many make a second, and
    ``frames`` how many there are, None where that is not known. A ``live`` one does not wait for its reader.
    ``beside`` is what is wrong with files that lay beside its own, which it tells as problems of its own."""

    live: ClassVar[bool] = False

    def __init__(self, name: str, fps: float, frames: int | None = None) -> None:
        self.name, self.fps, self.frames = name, fps, frames
        self.beside: Sequence[SourceError] = ()

    @abstractmethod
    def read(self, problem: Problem) -> Frames:
        """Frames (RGB uint8 [H, W, 3]) with their numbers from 0 and their times, which are not asked of a live source;
        closing the iterator closes what it reads.

        Raises :class:`SourceError` where it ends and should not have; what was yielded is good. It may be read again.
        """

    def _tell(self, problem: Problem) -> None:
        for error in self.beside:
            problem(error)

    def named(self, name: str) -> Source:
        """The same under another name."""
        if name == self.name:
            return self
        other = copy.copy(self)
        other.name = name
        return other

    @property
    def inputs(self) -> Sequence[Path]:
        """The files that it reads, which nothing may overwrite."""
        return ()


def frame_at(number: int, fps: float, image: Image) -> Frame:
    """A frame of a source that has ``fps`` frames in each second."""
    return Frame(number, number / fps, image)


class Pictures(Source):
    """Pictures as frames, numbered from 0 or by ``numbers``. One that cannot be read is told, and leaves a gap in the
    numbers."""

    def __init__(
        self, name: str, paths: Sequence[Path], fps: float = PICTURES_FPS, numbers: Sequence[int] | None = None
    ) -> None:
        super().__init__(name, fps, len(paths))
        self._paths = tuple(paths)
        self._numbers = range(len(paths)) if numbers is None else numbers

    def read(self, problem: Problem) -> Frames:
        self._tell(problem)
        for number, path in zip(self._numbers, self._paths, strict=True):
            try:
                image = load_image(path)
            except SourceError as error:
                problem(error)
            else:
                yield frame_at(number, self.fps, image)

    @property
    def inputs(self) -> Sequence[Path]:
        return self._paths


class VideoFile(Source):
    """A video file; frames have its own times."""

    def __init__(self, name: str, path: Path) -> None:
        with read_video(path) as video:  # what cannot be opened is told before anything else is
            self._pace = video.pace
            super().__init__(name, self._pace.fps, video.info.frames)
        self._path = path

    def read(self, problem: Problem) -> Frames:
        self._tell(problem)  # a video says at its end what was lost
        with read_video(self._path, self._pace) as video:
            yield from video.numbered()

    @property
    def inputs(self) -> Sequence[Path]:
        return (self._path,)


class Camera(Source):
    """A camera of this machine, by its number, or an address. ``fps`` is its own once it is open.

    ``open_capture`` makes what behaves like ``cv2.VideoCapture``.
    """

    live = True

    def __init__(self, name: str, place: int | str, open_capture: Callable[[int | str], Any] | None = None) -> None:
        super().__init__(name, PICTURES_FPS)
        self._place = place
        self._open = open_capture or _open_capture

    def read(self, problem: Problem) -> Frames:
        del problem
        capture = self._open(self._place)
        try:
            if not capture.isOpened():
                raise SourceError(f"{self.name} does not open", "is it there, switched on, and free?")
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = fps if 0 < fps <= 1000 else PICTURES_FPS  # not a number compares false
            number = 0
            while True:
                there, pixels = capture.read()
                if not there:
                    raise SourceError(f"{self.name} gives no more frames (after {number})")
                yield frame_at(number, self.fps, as_rgb(pixels))
                number += 1
        finally:
            capture.release()


def _open_capture(place: int | str) -> Any:
    if isinstance(place, int) or cv2.CAP_FFMPEG not in cv2.videoio_registry.getBackends():
        return cv2.VideoCapture(place)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
    return cv2.VideoCapture(place, cv2.CAP_FFMPEG, limits)


# --- from what was typed ----------------------------------------------------------------------------------------------


def find_sources(
    specs: Sequence[str | Path | Source], cameras: int | None = None, fps: float = PICTURES_FPS
) -> list[Source]:
    """The sources that ``specs`` name (or are), in order; ``fps`` is that of pictures.

    With ``cameras``, that many: they are taken again from the first on, to stand for as many cameras.
    :class:`SourceError` where a spec names nothing, or a video does not open. No camera is opened here.
    """
    found: list[Source] = []
    for spec in specs:
        found += [spec] if isinstance(spec, Source) else _sources_of(str(spec), fps)
    if not found:
        raise SourceError("nothing to look at", "give at least one --source, such as --source clip.mp4")
    if cameras is not None:
        if cameras < len(found):
            raise SourceError(
                f"{len(found)} sources are given for {counted(cameras, 'camera')}",
                "ask for more --cameras, or name fewer files",
            )
        if any(source.live for source in found) and cameras > len(found):
            raise SourceError("a live source cannot stand for several cameras", "leave --cameras out, or name files")
        found = [found[place % len(found)] for place in range(cameras)]
    names = unique([source.name for source in found])
    return [source.named(name) for source, name in zip(found, names, strict=True)]


def _sources_of(spec: str, fps: float) -> list[Source]:
    if spec.startswith(CAMERA):
        number = spec.removeprefix(CAMERA)
        if not number.isdecimal():
            raise SourceError(f"{spec!r} names no camera", "write camera:0 for the first one")
        return [Camera(f"camera-{number}", int(number))]
    if _ADDRESS.match(spec):
        return [Camera(_address_name(spec), spec)]
    matches = matches_of(spec)
    if matches is not None:
        return _of_files(matches, spec, fps)
    if _NUMBERED.search(Path(spec).name) and not Path(spec).exists():
        return [_numbered(Path(spec), fps)]
    path = locate(spec)
    if path.is_dir():
        return _of_files(path.iterdir(), spec, fps)
    if not path.is_file():
        raise SourceError(f"{spec} is no file", "name a picture, a video, a folder, camera:0 or an address")
    if is_video(path):
        return [VideoFile(_file_name(path.stem), path)]
    return [Pictures(_file_name(path.stem), [path], fps)]


def _of_files(paths: Iterable[Path], spec: str, fps: float) -> list[Source]:
    """All pictures as one source, and each video that opens as one."""
    found, others = by_suffix(paths, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    left_out = LeftOut(spec, others) if others else None
    videos = [path for path in sorted(found, key=natural) if is_video(path)]
    pictures = [path for path in sorted(found, key=natural) if not is_video(path)]
    if not found:
        suffixes = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        besides = f": {left_out.message}" if left_out else ""
        raise SourceError(f"{spec} names no picture and no video{besides}", f"in {Path.cwd()}; suffixes: {suffixes}")
    rows: list[Source] = []
    if pictures:
        expanded = [source.path for source in expand_images(pictures)]  # each file once
        rows.append(Pictures(_file_name(pictures[0].absolute().parent.name), expanded, fps))
    beside: list[SourceError] = [left_out] if left_out and left_out.pictures else []
    for path in videos:
        try:
            rows.append(VideoFile(_file_name(path.stem), path))
        except SourceError as error:  # nobody named this one
            beside.append(error)
    if not rows:
        raise beside[-1]
    rows[0].beside = beside
    if left_out and not left_out.pictures:
        log.warning(left_out)
    return rows


def _numbered(pattern: Path, fps: float) -> Source:
    """``frames_%05d.png``: the files that there are, by number; the first is frame 0, and gaps stay gaps."""
    sign = _NUMBERED.search(pattern.name)
    if sign is None:
        raise ValueError(f"{pattern} has no number")
    before, behind = pattern.name[: sign.start()], pattern.name[sign.end() :]
    matching = re.compile(rf"{re.escape(before)}(\d{{{sign[1].lstrip('0') or 1},}}){re.escape(behind)}")
    folder = locate(pattern.parent)
    found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := matching.fullmatch(path.name)))
    if not found:
        raise SourceError(f"{pattern} matches no file", f"looked in {folder.absolute()}")
    name = _file_name(before.rstrip("_-. ") or folder.absolute().name)
    numbers = _counted([number for number, _ in found])
    if missing := numbers[-1] + 1 - len(numbers):
        log.warning("%s: %d numbers are missing, and leave gaps in time", printable(str(pattern)), missing)
    return Pictures(name, [path for _, path in found], fps, numbers)


def _counted(numbers: Sequence[int]) -> Sequence[int]:
    """The place in time of each of these ascending numbers, from 0: of every tenth frame one follows the other, and
    others leave gaps. Numbers that count nothing, such as dates, leave none."""
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    places = [(number - numbers[0]) // (math.gcd(*steps) or 1) for number in numbers]
    return places if min(steps, default=1) and places[-1] < 2 * len(places) else range(len(numbers))


def natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts ``frame_2`` before ``frame_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _address_name(address: str) -> str:
    """Host and path: no user, no password, no query."""
    parts = urlsplit(address)
    return _file_name(f"{parts.hostname or 'address'}{parts.path}")


def _file_name(text: str) -> str:
    return shortened(printable(_UNSAFE.sub("-", text)).strip("-. ")) or "source"
