"""Which files are meant by paths, folders, globs and files of installed packages; nothing is opened.

``package:skimage/data/coffee.png`` is a file that an installed Python package ships; the package is not imported.
A name that is not UTF-8 is taken like any other, and shown by :func:`sam3_runtime.core.errors.printable`. Pure.
"""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sam3_runtime.core.errors import SourceError, printable

PACKAGE = "package:"
"""Prefix of a file that an installed Python package ships."""
IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
# Pictures that OpenCV does not read, or not everywhere.
_UNREAD_SUFFIXES = re.compile(r"\.(arw|avif|cr[23]|dng|gif|hei[cf]|jp2|jxl|nef|orf|psd|raf|raw|rw2|svg)")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LONGEST_NAME = 160  # bytes; file systems take 255

Spec = str | Path
log = logging.getLogger(__name__)


class ImageSource(NamedTuple):
    """A picture to read: ``name`` is unique among those expanded together and holds no more of the path than needed."""

    name: str
    path: Path


class LeftOut(SourceError):
    """What a folder or glob holds and what is not read. ``pictures`` of it are pictures: what is read is not all."""

    def __init__(self, where: Spec, files: Sequence[Path]) -> None:
        kinds = Counter("hidden" if _is_hidden(one) else one.suffix.lower() or "without a suffix" for one in files)
        self.pictures = sum(count for kind, count in kinds.items() if _UNREAD_SUFFIXES.fullmatch(kind))
        listed = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind)))
        super().__init__(
            f"{where}: {len(files)} of its files {'is' if len(files) == 1 else 'are'} left out: {listed}",
            f"convert the pictures among them to one of {', '.join(IMAGE_SUFFIXES)}" if self.pictures else None,
        )


def locate(spec: Spec) -> Path:
    """The path that ``spec`` names, which exists; :class:`SourceError` otherwise."""
    path = _in_package(str(spec)) if str(spec).startswith(PACKAGE) else Path(spec)
    try:
        path.stat()
    except FileNotFoundError:
        if _ADDRESS.match(str(spec)):
            raise SourceError(
                f"{spec} is an address, and files are read here",
                "download it first; sam3-runtime stream --source reads addresses of videos and cameras",
            ) from None
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


def is_video(spec: Spec) -> bool:
    """Whether ``spec`` looks like a video, by its suffix."""
    return Path(str(spec)).suffix.lower() in VIDEO_SUFFIXES


def expand_images(specs: Iterable[Spec], left_out: Callable[[LeftOut], None] | None = None) -> list[ImageSource]:
    """The pictures that files, folders, globs and ``package:`` specs name, in that order, each file once.

    A folder gives the pictures directly in it (by suffix, hidden ones left out), sorted by name; a glob likewise; a
    file is taken whatever its suffix. ``left_out`` gets what a folder or glob holds besides, which else is logged.
    :class:`SourceError` where a spec gives nothing. Nothing is decoded.
    """
    tell = left_out or log.warning
    paths: dict[Path, Path] = {}
    for spec in specs:
        for path in _pictures_of(spec, tell):
            paths.setdefault(path.resolve(), path)
    return [ImageSource(name, path) for name, path in zip(_unique_names(list(paths)), paths.values(), strict=True)]


def _pictures_of(spec: Spec, left_out: Callable[[LeftOut], None]) -> list[Path]:
    matches = matches_of(spec)
    path = Path() if matches is not None else locate(spec)
    if matches is None and not path.is_dir():
        return [path]
    found, others = by_suffix(path.iterdir() if matches is None else matches, IMAGE_SUFFIXES)
    besides = f": {LeftOut(spec, others).message}" if others else ""
    if not found and matches is not None:
        where = f"in {Path.cwd()}; suffixes: {', '.join(IMAGE_SUFFIXES)}"
        raise SourceError(f"{spec} matches no picture{besides}", where)
    if not found:
        raise SourceError(f"the folder {spec} holds no picture{besides}", f"suffixes: {', '.join(IMAGE_SUFFIXES)}")
    if others:
        left_out(LeftOut(spec, others))
    return found


def matches_of(spec: Spec) -> list[Path] | None:
    """What a glob matches; None for what is no glob, or the name of a file that has such signs in it."""
    text = str(spec)
    if not any(sign in text for sign in "*?[") or text.startswith(PACKAGE) or os.path.lexists(text):
        return None
    return [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207 (Path.glob takes no absolute one)


def by_suffix(paths: Iterable[Path], suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files of these suffixes, sorted by name, and the other files, among them all hidden ones: macOS keeps what
    is no picture in ``._photo.png``."""
    files = sorted(path for path in paths if path.is_file())
    found = [path for path in files if path.suffix.lower() in suffixes and not _is_hidden(path)]
    taken = set(found)
    return found, [path for path in files if path not in taken]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many parent folders as tell equal ones apart (``left/a.png``, ``right/a.png``)."""
    shown = [Path(printable(str(path))) for path in paths]
    names = [path.name for path in shown]
    alike = Counter(str(path).casefold() for path in shown)  # which no folder tells apart
    for depth in range(2, max((len(path.parts) for path in shown), default=0) + 1):
        twice = Counter(name.casefold() for name in names)
        names = [
            "/".join(part for part in path.parts[-depth:] if part != path.anchor)
            if twice[name.casefold()] > 1 and alike[str(path).casefold()] == 1
            else name
            for path, name in zip(shown, names, strict=True)
        ]
    return unique(names, fold=str)


def shortened(name: str) -> str:
    """As much of a name as a file's may have, with room for a number, a suffix and what marks it as half-written."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def unique(names: Sequence[str], fold: Callable[[str], str] = str.casefold) -> list[str]:
    """The names, told apart by a number behind what was there before; by default as files, for which case alone does
    not everywhere."""
    taken: set[str] = set()
    given = []
    for name in names:
        suffix = Path(name).suffix if Path(name).suffix.lower() in IMAGE_SUFFIXES else ""
        tried, count = name, 1
        while fold(tried) in taken:
            count += 1
            tried = f"{name.removesuffix(suffix)}-{count}{suffix}"
        taken.add(fold(tried))
        given.append(tried)
    return given
