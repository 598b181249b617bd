"""Finds the files that paths, folders, globs and ``package:`` specs name; opens none of them.

``package:skimage/data/coffee.png`` is a file of an installed Python package, which is not imported. Names that are not
valid UTF-8 are accepted, and shown by :func:`sam3_runtime.core.errors.printable`. Pure.
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
from sam3_runtime.core.wording import counted

PACKAGE = "package:"
"""Prefix of a file of an installed Python package."""
IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
# Images that OpenCV does not read, or not everywhere.
_UNREAD_SUFFIXES = re.compile(r"\.(arw|avif|cr[23]|dng|gif|hei[cf]|jp2|jxl|nef|orf|psd|raf|raw|rw2|svg)")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LONGEST_NAME = 160  # bytes; file systems take 255

Spec = str | Path
log = logging.getLogger(__name__)


class ImageSource(NamedTuple):
    """An image file: ``name`` is unique among those expanded together, with no more of the path than needed."""

    name: str
    path: Path


class LeftOut(SourceError):
    """Files of a folder or glob that are not read. ``images`` is how many of them are images of unsupported formats."""

    def __init__(self, where: Spec, files: Sequence[Path]) -> None:
        kinds = Counter("hidden" if _is_hidden(one) else one.suffix.lower() or "without a suffix" for one in files)
        self.images = sum(count for kind, count in kinds.items() if _UNREAD_SUFFIXES.fullmatch(kind))
        listed = ", ".join(
            f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda one: (-one[1], one[0]))
        )
        super().__init__(
            f"{where}: {counted(len(files), 'file')} left out: {listed}",
            f"convert the images among them to one of {', '.join(IMAGE_SUFFIXES)}" if self.images else None,
        )


def locate(spec: Spec) -> Path:
    """Return the existing path that ``spec`` names; :class:`SourceError` otherwise."""
    path = _in_package(str(spec)) if str(spec).startswith(PACKAGE) else Path(spec)
    try:
        path.stat()
    except FileNotFoundError:
        if _ADDRESS.match(str(spec)):
            raise SourceError(
                f"{spec} is an address, and only files are read here",
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
    """Return whether ``spec`` has the suffix of a video."""
    return Path(str(spec)).suffix.lower() in VIDEO_SUFFIXES


def expand_images(specs: Iterable[Spec], left_out: Callable[[LeftOut], None] | None = None) -> list[ImageSource]:
    """Return the images that files, folders, globs and ``package:`` specs name, in that order, each file once.

    A folder or glob means its images (by suffix, hidden files excluded), sorted by name; a named file is taken whatever
    its suffix. ``left_out`` is called with the other files of a folder or glob, which are logged by default.
    :class:`SourceError` if a spec names no image. Nothing is decoded.
    """
    paths: dict[Path, Path] = {}
    for spec in specs:
        for path in _images_of(spec, left_out or log.warning):
            paths.setdefault(path.resolve(), path)
    return [ImageSource(name, path) for name, path in zip(_unique_names(list(paths)), paths.values(), strict=True)]


def _images_of(spec: Spec, left_out: Callable[[LeftOut], None]) -> list[Path]:
    listed = files_in(spec, IMAGE_SUFFIXES, "image")
    if listed is None:
        return [locate(spec)]
    if listed.left_out:
        left_out(listed.left_out)
    return listed.files


class Listed(NamedTuple):
    """The files of a folder or glob with the wanted suffixes, sorted by name, and the other ones."""

    files: list[Path]
    left_out: LeftOut | None


def files_in(spec: Spec, suffixes: Sequence[str], noun: str) -> Listed | None:
    """List the files with ``suffixes`` in a folder, or that match a glob; None if ``spec`` names a single file.

    :class:`SourceError` if there is no such file, with ``noun`` as its name, or no such folder.
    """
    text = str(spec)
    # a file that exists may have such characters in its name
    paths: Iterable[Path]
    if any(sign in text for sign in "*?[") and not text.startswith(PACKAGE) and not os.path.lexists(text):
        paths = map(Path, glob.glob(text, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    elif locate(spec).is_dir():
        paths = locate(spec).iterdir()
    else:
        return None
    files, others = by_suffix(paths, suffixes)
    left_out = LeftOut(spec, others) if others else None
    if not files:
        besides = f": {left_out.message}" if left_out else ""
        raise SourceError(f"{spec} contains no {noun}{besides}", f"in {Path.cwd()}; suffixes: {', '.join(suffixes)}")
    return Listed(files, left_out)


def by_suffix(paths: Iterable[Path], suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the files with these suffixes, sorted by name, and the other files.

    Hidden files are among the others: macOS writes ``._photo.png``, which is no image.
    """
    files = sorted(path for path in paths if path.is_file())
    found = [path for path in files if path.suffix.lower() in suffixes and not _is_hidden(path)]
    taken = set(found)
    return found, [path for path in files if path not in taken]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many parent folders as distinguish equal ones (``left/a.png``, ``right/a.png``)."""
    shown = [Path(printable(str(path))) for path in paths]
    names = [path.name for path in shown]
    alike = Counter(str(path).casefold() for path in shown)  # paths that differ in no folder
    for depth in range(2, max((len(path.parts) for path in shown), default=0) + 1):
        twice = Counter(name.casefold() for name in names)
        for index, path in enumerate(shown):
            if twice[names[index].casefold()] > 1 and alike[str(path).casefold()] == 1:
                names[index] = "/".join(part for part in path.parts[-depth:] if part != path.anchor)
    return unique(names, fold=str)


def shortened(name: str) -> str:
    """Return ``name`` cut to 160 bytes, so that a number, a suffix and the mark of a partial file fit behind it."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def unique(names: Sequence[str], fold: Callable[[str], str] = str.casefold) -> list[str]:
    """Return the names, with a number appended to each that was there before.

    By default names that differ only in case are equal, as they are on some file systems.
    """
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
