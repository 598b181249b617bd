"""The command ``sam3-runtime infer``: a run of ``stream`` over images and a video, with names of files for people.

    <output>/images/<name>             annotated images; equal names are distinguished by their folders
    <output>/images.jsonl              one line per image: size, detections with score, box and RLE mask
    <output>/<video>.mp4, .mp4.jsonl   the annotated video, and one line per frame
    <output>/coco.json, summary.json   as `stream` writes them

Unreadable images are reported and skipped. Independent of the backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from sam3_runtime.cli.stream import StreamOutcome, classes_of, run_stream
from sam3_runtime.core.errors import SourceError, printable
from sam3_runtime.core.source_files import (
    IMAGE_SUFFIXES,
    ImageSource,
    LeftOut,
    expand_images,
    locate,
    shortened,
    unique,
)
from sam3_runtime.report.progress import messages, reporter
from sam3_runtime.streams.cameras import Frames, ImageFiles, Problem, Source, VideoFile

_WRITTEN = frozenset(IMAGE_SUFFIXES) - {".jfif"}  # what OpenCV writes


class NamedImages(ImageFiles):
    """Independent images; the annotated copies and the lines have their names."""

    saves = frozenset(("images", "jsonl"))
    tracked = False

    def __init__(self, images: Sequence[ImageSource]) -> None:
        super().__init__("images", [one.path for one in images])
        self._names = [one.name for one in images]
        self._copies = unique([_copy_name(name) for name in self._names])

    def image_name(self, number: int) -> str:
        """Return the path of an annotated copy."""
        return f"{self.name}/{self._copies[number]}"

    def line_head(self, number: int, seconds: float) -> Mapping[str, Any]:
        """Return the image's name."""
        del seconds
        return {"image": self._names[number]}


def _copy_name(name: str) -> str:
    """Return the name of an annotated copy: with a suffix that OpenCV writes, and not too long."""
    folder, slash, last = name.rpartition("/")
    suffix = Path(last).suffix
    stem = last.removesuffix(suffix) if suffix.lower() in _WRITTEN else last
    return f"{folder}{slash}{shortened(stem)}{suffix if stem != last else '.png'}"


class NamedVideo(VideoFile):
    """A video of which ``most`` frames are read; its lines have the video's name."""

    def __init__(self, path: Path, most: int | None) -> None:
        self._file = printable(path.name)
        self._most = most
        super().__init__(shortened(Path(self._file).stem), path)
        if most is not None:
            self.frames = min(self.frames or most, most)

    def read(self, problem: Problem) -> Frames:
        """Yield the first frames."""
        yield from islice(super().read(problem), self._most)

    @property
    def lines_name(self) -> str:
        """The name of its JSON Lines file."""
        return f"{self.name}.mp4.jsonl"

    def line_head(self, number: int, seconds: float) -> Mapping[str, Any]:
        """Return the video's name, the frame's number and its time."""
        return {"video": self._file, "frame": number, "seconds": round(seconds, 4)}


def infer(
    engines: Path,
    *,
    images: Sequence[str] = (),
    video: str | None = None,
    project: Path | None = None,
    bank: Path | None = None,
    prompts: Sequence[str] = (),
    boxes: Sequence[str] = (),
    relative_boxes: bool = False,
    frames: int | None = None,
    save: Sequence[str] | None = None,
    console: Console | None = None,
    **options: Any,
) -> StreamOutcome:
    """Detect on images (files, folders, globs, ``package:`` specs) and a video, and write the results.

    ``engines`` is a variant's directory. The classes are as for :func:`classes_of`, the other ``options`` as for
    :func:`run_stream`; ``frames`` limits the video. Without ``save``, annotated images of images, an annotated video of
    the video, and the lines of both are written.

    An unreadable image, or a video that ends early, counts as a failure in the summary, and the rest is processed.
    Raises as :func:`run_stream` and :func:`classes_of` do.
    """
    console = messages(console)
    classes = classes_of(project, bank, prompts, boxes, relative_boxes)
    if not images and video is None:
        raise SourceError("no images are given", "give --images or --video")
    sources: list[Source] = []
    if images:
        left_out: list[LeftOut] = []
        sources.append(NamedImages(expand_images(images, left_out.append)))
        sources[0].beside = [one for one in left_out if one.images]
        for one in left_out:
            if not one.images:
                reporter(console)(str(one))
    if video is not None:
        path = locate(video)
        try:
            sources.append(NamedVideo(path, frames))
        except SourceError as error:
            if not sources:
                raise
            sources[0].beside = [*sources[0].beside, error]
    return run_stream(engines, classes, sources, save=save, console=console, **options)
