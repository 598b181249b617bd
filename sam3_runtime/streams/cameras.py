"""The sources of a run: image sequences, video files, cameras and addresses, each a named sequence of frames.

    photos/, 'photos/*.jpg', frames_%05d.png   one source: its images in the order of their numbers
    a.mp4, videos/                             a source for each video
    camera:0, rtsp://…, http://…               a live source: a camera of this machine, or an address

Starts no thread and is independent of models. A password in an address appears in no name and in no message.
"""

from __future__ import annotations

import copy
import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import cv2

from sam3_runtime.core.errors import SourceError, printable
from sam3_runtime.core.source_files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Listed,
    expand_images,
    files_in,
    is_video,
    locate,
    shortened,
    unique,
)
from sam3_runtime.core.wording import counted
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import Frame, as_rgb, load_image, read_video

log = logging.getLogger(__name__)
CAMERA = "camera:"
IMAGES_FPS = 25.0
"""Frames per second of image sequences, by default."""
_ADDRESS = re.compile(r"(rtsps?|https?|rtmps?|srt|udp|tcp)://", re.IGNORECASE)
_NUMBERED = re.compile(r"%0?(\d*)d")
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f]+')
_OPEN_MS, _READ_MS = 10_000, 10_000  # OpenCV's own limits are 30 s each, for backends that have any

Frames = Generator[Frame, None, None]
Problem = Callable[[SourceError], None]
"""Called with the error of each frame that cannot be read, where the frames after it can."""


class Source(ABC):
    """A named sequence of frames.

    ``name`` is unique in a run and valid as a file name; ``fps`` is the nominal rate, ``frames`` the number of frames,
    None where that is not known, and ``inputs`` are the files, which no output may overwrite. A ``live`` source does
    not wait for its reader. ``beside`` are errors about unreadable files next to its own, which :meth:`read` reports
    first. ``saves`` are the kinds of output that are written of it by default, and ``tracked`` is whether its frames
    follow each other in time.
    """

    live: ClassVar[bool] = False
    tracked: ClassVar[bool] = True
    saves: ClassVar[frozenset[str]] = frozenset(("video", "jsonl"))

    def __init__(self, name: str, fps: float, frames: int | None = None, inputs: Sequence[Path] = ()) -> None:
        self.name, self.fps, self.frames, self.inputs = name, fps, frames, inputs
        self.beside: Sequence[SourceError] = ()

    @abstractmethod
    def read(self, problem: Problem) -> Frames:
        """Yield frames (RGB uint8 [H, W, 3]) with their numbers from 0 and their times in seconds.

        Closing the iterator closes the file or camera; a source may be read again. Raises :class:`SourceError` where
        it ends early or fails; the frames before that are good.
        """

    def _report_beside(self, problem: Problem) -> None:
        for error in self.beside:
            problem(error)

    def named(self, name: str) -> Source:
        """Return the source under this name: a copy, if it has another one."""
        if name == self.name:
            return self
        other = copy.copy(self)
        other.name = name
        return other

    # --- the names of its outputs; `infer` has its own ---

    def image_name(self, number: int) -> str:
        """Return the path of an annotated frame in the output folder."""
        return f"{self.name}/{number:08d}.jpg"

    @property
    def lines_name(self) -> str:
        """The name of its JSON Lines file."""
        return f"{self.name}.jsonl"

    def line_head(self, number: int, seconds: float) -> Mapping[str, Any]:
        """Return the first fields of a frame's JSON line."""
        return {"source": self.name, "frame": number, "seconds": round(seconds, 4)}


def frame_at(number: int, fps: float, image: Image) -> Frame:
    """Return the frame ``number`` of a source with ``fps`` frames per second."""
    return Frame(number, number / fps, image)


class ImageFiles(Source):
    """Image files as frames, numbered from 0 or by ``numbers``.

    An unreadable file is reported, and its number is skipped.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], fps: float = IMAGES_FPS, numbers: Sequence[int] | None = None
    ) -> None:
        super().__init__(name, fps, len(paths), paths)
        self._numbers = range(len(paths)) if numbers is None else numbers

    def read(self, problem: Problem) -> Frames:
        """Yield the images; see :meth:`Source.read`."""
        self._report_beside(problem)
        for number, path in zip(self._numbers, self.inputs, strict=True):
            try:
                image = load_image(path)
            except SourceError as error:
                problem(error)
            else:
                yield frame_at(number, self.fps, image)


class VideoFile(Source):
    """A video file; its frames have the times of the file. Raises :class:`SourceError` if it does not open."""

    def __init__(self, name: str, path: Path) -> None:
        with read_video(path) as video:
            self._pace = video.pace
            super().__init__(name, self._pace.fps, video.info.frames, [path])

    def read(self, problem: Problem) -> Frames:
        """Yield the frames; lost frames are reported by the :class:`SourceError` at the end."""
        self._report_beside(problem)
        with read_video(self.inputs[0], self._pace) as video:
            yield from video.numbered()


class Camera(Source):
    """A camera of this machine, by its number, or an address. ``fps`` is its own once it is open.

    ``open_capture`` returns an object with the interface of ``cv2.VideoCapture``.
    """

    live = True

    def __init__(self, name: str, address: int | str, open_capture: Callable[[int | str], Any] | None = None) -> None:
        super().__init__(name, IMAGES_FPS)
        self._address = address
        self._open = open_capture or _open_capture

    def read(self, problem: Problem) -> Frames:
        """Yield frames until the camera fails, which raises :class:`SourceError`."""
        del problem
        capture = self._open(self._address)
        try:
            if not capture.isOpened():
                raise SourceError(
                    f"{self.name} does not open", "check that it is connected, switched on and not in use"
                )
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = fps if 0 < fps <= 1000 else IMAGES_FPS  # NaN compares false
            number = 0
            while True:
                success, pixels = capture.read()
                if not success:
                    raise SourceError(f"{self.name} delivers no more frames (after {number})")
                yield frame_at(number, self.fps, as_rgb(pixels))
                number += 1
        finally:
            capture.release()


def _open_capture(address: int | str) -> Any:
    if isinstance(address, int) or cv2.CAP_FFMPEG not in cv2.videoio_registry.getBackends():
        return cv2.VideoCapture(address)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


# --- from specs to sources --------------------------------------------------------------------------------------------


def find_sources(
    specs: Sequence[str | Path | Source], cameras: int | None = None, fps: float = IMAGES_FPS
) -> list[Source]:
    """Return the sources that ``specs`` name (or are), in order; ``fps`` is the rate of image sequences.

    With ``cameras``, return that many: the sources are repeated from the first on, to simulate as many cameras. Opens
    no camera. Raises :class:`SourceError` where a spec names nothing, or a video does not open.
    """
    found: list[Source] = []
    for spec in specs:
        found += [spec] if isinstance(spec, Source) else _sources_of(str(spec), fps)
    if not found:
        raise SourceError("no source is given", "give at least one --source, such as --source clip.mp4")
    if cameras is not None:
        if cameras < len(found):
            raise SourceError(
                f"{len(found)} sources are given for {counted(cameras, 'camera')}",
                "raise --cameras, or name fewer files",
            )
        if cameras > len(found) and any(source.live for source in found):
            raise SourceError("a live source cannot simulate several cameras", "leave --cameras out, or name files")
        found = [found[index % len(found)] for index in range(cameras)]
    names = unique([source.name for source in found])
    return [source.named(name) for source, name in zip(found, names, strict=True)]


def _sources_of(spec: str, fps: float) -> list[Source]:
    if spec.startswith(CAMERA):
        number = spec.removeprefix(CAMERA)
        if not number.isdecimal():
            raise SourceError(f"{spec!r} names no camera", "write camera:0 for the first one")
        return [Camera(f"camera-{number}", int(number))]
    if _ADDRESS.match(spec):
        parts = urlsplit(spec)  # the name has the host and the path: no user, password or query
        return [Camera(file_name(f"{parts.hostname or 'address'}{parts.path}"), spec)]
    if (sign := _NUMBERED.search(Path(spec).name)) and not Path(spec).exists():
        return [_numbered(Path(spec), sign, fps)]
    listed = files_in(spec, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES), "image or video")
    if listed is not None:
        return _of_files(listed, fps)
    path = locate(spec)
    if not path.is_file():
        raise SourceError(f"{spec} is not a file", "name an image, a video, a folder, camera:0 or an address")
    name = file_name(path.stem)
    return [VideoFile(name, path) if is_video(path) else ImageFiles(name, [path], fps)]


def _of_files(listed: Listed, fps: float) -> list[Source]:
    """One source of all images, and one for each video that opens."""
    files = sorted(listed.files, key=natural)
    sources: list[Source] = []
    if images := [path for path in files if not is_video(path)]:
        each_once = [image.path for image in expand_images(images)]
        sources.append(ImageFiles(file_name(images[0].absolute().parent.name), each_once, fps))
    beside: list[SourceError] = []
    if listed.left_out and listed.left_out.images:
        beside.append(listed.left_out)
    elif listed.left_out:
        log.warning(listed.left_out)
    for path in filter(is_video, files):
        try:
            sources.append(VideoFile(file_name(path.stem), path))
        except SourceError as error:  # it was not named itself: the others are processed
            beside.append(error)
    if not sources:
        raise beside[-1]
    sources[0].beside = beside
    return sources


def _numbered(pattern: Path, sign: re.Match[str], fps: float) -> Source:
    """``frames_%05d.png``: the files that match, by number; the first is frame 0, and missing numbers stay gaps."""
    before, after = pattern.name[: sign.start()], pattern.name[sign.end() :]
    matching = re.compile(rf"{re.escape(before)}(\d{{{sign[1].lstrip('0') or 1},}}){re.escape(after)}")
    folder = locate(pattern.parent)
    found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := matching.fullmatch(path.name)))
    if not found:
        raise SourceError(f"{pattern} matches no file", f"searched in {folder.absolute()}")
    numbers = _frame_numbers([number for number, _ in found])
    if missing := numbers[-1] + 1 - len(numbers):
        log.warning("%s: %d numbers are missing, and leave gaps in time", printable(str(pattern)), missing)
    name = file_name(before.rstrip("_-. ") or folder.absolute().name)
    return ImageFiles(name, [path for _, path in found], fps, numbers)


def _frame_numbers(numbers: Sequence[int]) -> Sequence[int]:
    """Return the frame number, from 0, of each of these ascending file numbers.

    A common step counts as one frame, and other differences leave gaps. Numbers with more gaps than files, such as
    dates, leave none.
    """
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    frames = [(number - numbers[0]) // (math.gcd(*steps) or 1) for number in numbers]
    return frames if min(steps, default=1) and frames[-1] < 2 * len(frames) else range(len(numbers))


def natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts ``frame_2`` before ``frame_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def file_name(text: str) -> str:
    """Return ``text`` as the name of a source: without characters that a file name may not have."""
    return shortened(printable(_UNSAFE.sub("-", text)).strip("-. ")) or "source"
