"""Reads pictures and videos from files, folders, globs and installed packages, as RGB uint8.

``package:skimage/data/coffee.png`` is a file that an installed Python package ships; the package is not imported.
Knows OpenCV and nothing of models. OpenCV's order is BGR, and it goes no further than this module and ``sinks``.
"""

from __future__ import annotations

import glob
import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from typing_extensions import Self

from sam3_runtime.errors import SourceError
from sam3_runtime.preprocess import Image

PACKAGE = "package:"
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
_DEFAULT_FPS = 25.0  # for files that do not say
_COUNT_SLACK = 0.02  # headers of some containers estimate the frame count from the duration
_LOST_IN_A_ROW = 50  # frames that may fail to decode before the rest counts as missing

Spec = str | Path


class ImageSource(NamedTuple):
    """A picture to read: ``name`` is unique among those expanded together and holds no more of the path than needed."""

    name: str
    path: Path


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says. ``frames`` is None where it does not tell; the size is in pixels."""

    name: str
    width: int
    height: int
    fps: float
    frames: int | None


class VideoEndsEarly(SourceError):
    """Fewer frames decode than the header promises: the end is missing, or ``lost`` frames before it. What was yielded
    is good."""

    def __init__(self, path: Path, decoded: int, promised: int, lost: int = 0) -> None:
        self.decoded, self.promised, self.lost = decoded, promised, lost
        what = f"is damaged: {lost} frames before its end are lost" if lost else "ends early"
        super().__init__(
            f"{path} {what}: {decoded} frames decode, and its header promises {promised}",
            "the file is damaged or was not copied whole; what could be read is kept",
        )


# --- files ------------------------------------------------------------------------------------------------------------


def locate(spec: Spec) -> Path:
    """The path that ``spec`` names, which exists; :class:`SourceError` otherwise."""
    path = _in_package(str(spec)) if str(spec).startswith(PACKAGE) else Path(spec)
    try:
        path.stat()
    except FileNotFoundError:
        raise SourceError(f"{spec} does not exist", f"looked for {path.absolute()}") from None
    except OSError as error:
        raise SourceError(f"{spec} cannot be read: {error.strerror or error}") from None
    return path


def _in_package(spec: str) -> Path:
    name, _, inside = spec.removeprefix(PACKAGE).partition("/")
    if not name.isidentifier() or not inside:
        raise SourceError(
            f"{spec!r} names no file of a package", "write package:NAME/PATH, as in package:skimage/data/coffee.png"
        )
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SourceError(f"{spec}: the package {name!r} is not installed here", "install it, or name another file")
    folders = [Path(folder) for folder in found.submodule_search_locations]
    return next((folder / inside for folder in folders if (folder / inside).exists()), folders[0] / inside)


# --- pictures ---------------------------------------------------------------------------------------------------------


def load_image(spec: Spec) -> Image:
    """Read a picture as RGB uint8 [H, W, 3], upright as its EXIF data says.

    Grey is repeated to three channels, 16 bits become 8 by scaling, and alpha is dropped (as transformers does).
    :class:`SourceError` for what is missing or is no picture.
    """
    path = locate(spec)
    try:
        data = np.fromfile(path, np.uint8)  # not cv2.imread: on Windows it does not take every path
    except OSError as error:
        raise SourceError(f"{spec} cannot be read: {error.strerror or error}") from None
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(f"{spec} is no picture that can be read: {_guess(data)}", _convert_hint())
    if pixels.dtype not in (np.uint8, np.uint16):
        raise SourceError(
            f"{spec} has {pixels.dtype} pixels; pictures of 8 and 16 bits are read", "convert it to 8 bits"
        )
    return as_rgb(pixels)


def as_rgb(pixels: np.ndarray[Any, Any]) -> Image:
    """What OpenCV gives, BGR, BGRA or grey of 8 or 16 bits, as RGB uint8 [H, W, 3]."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
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
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")):
        return "it is damaged or cut off"
    if start[4:8] == b"ftyp":
        return "it is a video, HEIC or AVIF"
    printable = sum(byte in b"\t\n\r" or byte >= 32 for byte in start)
    return "it holds text" if printable == len(start) and b"\0" not in start else "its format is not known"


def expand_images(specs: Iterable[Spec]) -> list[ImageSource]:
    """The pictures that files, folders, globs and ``package:`` specs name, in that order, each file once.

    A folder gives the pictures directly in it (by suffix), sorted by name; a glob likewise; a file is taken whatever
    its suffix. :class:`SourceError` where a spec gives nothing. Nothing is decoded.
    """
    paths: dict[Path, Path] = {}
    for spec in specs:
        for path in _pictures_of(spec):
            paths.setdefault(path.resolve(), path)
    return [ImageSource(name, path) for name, path in zip(_unique_names(list(paths)), paths.values(), strict=True)]


def _pictures_of(spec: Spec) -> list[Path]:
    text = str(spec)
    if any(sign in text for sign in "*?[") and not text.startswith(PACKAGE) and not Path(text).exists():
        found = _by_suffix(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute one)
        if not found:
            raise SourceError(f"{text} matches no picture", f"in {Path.cwd()}; suffixes: {', '.join(IMAGE_SUFFIXES)}")
        return found
    path = locate(spec)
    if not path.is_dir():
        return [path]
    found = _by_suffix(path.iterdir())
    if not found:
        raise SourceError(f"the folder {spec} holds no picture", f"suffixes: {', '.join(IMAGE_SUFFIXES)}")
    return found


def _by_suffix(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many parent folders as tell equal ones apart (``left/a.png``, ``right/a.png``)."""
    names = {path: path.name for path in paths}
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        # Two names that differ by case alone are one file on Windows.
        folded = sorted(name.casefold() for name in names.values())
        twice = {one for one, other in pairwise(folded) if one == other}
        if not twice:
            break
        for path, name in names.items():
            if name.casefold() in twice:
                names[path] = "/".join(part for part in path.parts[-depth:] if part != path.anchor)
    return [names[path] for path in paths]


# --- videos -----------------------------------------------------------------------------------------------------------


class Video:
    """An open video: ``info`` is what its header says, iterating decodes its frames (RGB uint8 [H, W, 3]) once.

    Iterating raises :class:`VideoEndsEarly` after the last frame that decodes when the header promised more.
    """

    def __init__(self, spec: Spec) -> None:
        self._path = locate(spec)
        self._capture = cv2.VideoCapture(str(self._path))
        if not self._capture.isOpened():
            raise SourceError(
                f"{spec} is no video that can be opened", "it is damaged, cut off, or of an unknown format"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.info = VideoInfo(
            name=self._path.name,
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            fps=fps if math.isfinite(fps) and fps > 0 else _DEFAULT_FPS,
            frames=int(frames) if math.isfinite(frames) and frames > 0 else None,
        )

    def __iter__(self) -> Iterator[Image]:
        for _, frame in self._decode(None):
            yield frame

    def frames_at(self, wanted: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """The frames of these numbers (from 0), in ascending order; those between are skipped, not converted."""
        yield from self._decode(frozenset(wanted))

    def count(self) -> int:
        """The frames that really decode: a header may promise what is not there. Uses the video up."""
        return sum(1 for _ in self._grab())

    def numbered(self) -> Iterator[tuple[int, Image]]:
        """As iterating, each frame with its number: a frame that does not decode leaves a gap."""
        yield from self._decode(None)

    def _decode(self, wanted: frozenset[int] | None) -> Iterator[tuple[int, Image]]:
        frame = None  # OpenCV writes the next one into it
        for number in self._grab():
            if wanted is None or number in wanted:
                decoded, frame = self._capture.retrieve(frame)
                if decoded:
                    yield number, as_rgb(frame)

    def _grab(self) -> Iterator[int]:
        """The numbers of the frames that decode, each ready to be retrieved. OpenCV says that it could not grab a
        frame at the end, and likewise where one is damaged: there the next ones may be good."""
        promised = self.info.frames or 1
        number = lost = failed = 0
        while failed == 0 or failed < min(_LOST_IN_A_ROW, promised - number):
            if self._capture.grab():
                number, lost, failed = number + failed, lost + failed, 0
                yield number
                number += 1
            else:
                failed += 1
        if lost or promised - number > _COUNT_SLACK * promised:
            raise VideoEndsEarly(self._path, number - lost, promised, lost)

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_video(spec: Spec) -> Video:
    """Open a video file (or ``package:`` spec); :class:`SourceError` when it is missing or cannot be opened."""
    return Video(spec)


def is_video(spec: Spec) -> bool:
    """Whether ``spec`` looks like a video, by its suffix."""
    return Path(str(spec)).suffix.lower() in VIDEO_SUFFIXES


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
