"""What ``sam3-runtime infer`` does: pictures and a video in, annotated ones and JSON Lines out.

    <output>/images/<name>             annotated pictures; equal names are told apart by their folders
    <output>/images.jsonl              one line a picture: size, detections with score, box and RLE mask
    <output>/<video>.mp4, .mp4.jsonl   the annotated video, and one line a frame

What cannot be read is reported and left out, and the rest is done; the result says so. Where the run ends with an
error, what was found until then is kept. Knows no backend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sam3_runtime.core.errors import OutputError, SourceError, printable
from sam3_runtime.core.files import remove_abandoned_parts
from sam3_runtime.core.wording import counted
from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3.pipeline import THRESHOLD, Pipeline
from sam3_runtime.families.sam3.prompts import Box, Prompt, PromptError
from sam3_runtime.imaging.drawing import draw
from sam3_runtime.imaging.fonts import boxes_in
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sinks import JsonLines, VideoSink, as_line, write_picture
from sam3_runtime.media.source_files import (
    IMAGE_SUFFIXES,
    ImageSource,
    LeftOut,
    expand_images,
    locate,
    shortened,
    unique,
)
from sam3_runtime.media.sources import Frame, VideoEndsEarly, load_all, read_video

_WRITTEN = frozenset(IMAGE_SUFFIXES) - {".jfif"}
BOX_ON_VIDEO = (
    "--box is the same example on every frame and follows nothing; to follow things, write the box into a project file "
    "as a class's example and run: sam3-runtime stream PROJECT.yaml --engines VARIANT --source VIDEO --track"
)
"""What is reported where a video is given an example box."""


@dataclass
class Summary:
    """What :func:`infer` did. ``problems`` are the messages about what could not be read, ``unread`` pictures and
    videos; any means exit code 1. ``changes`` say what a file that was written has not as its source has it."""

    images: int = 0
    frames: int = 0
    found: dict[str, int] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unread: int = 0

    def count(self, detections: Sequence[Detections]) -> None:
        for one in detections:
            self.found[one.prompt] = self.found.get(one.prompt, 0) + len(one)

    @property
    def exit_code(self) -> int:
        return 1 if self.problems else 0

    def lines(self) -> list[str]:
        """For people: what was found and where it was written."""
        found = ", ".join(f"{count} x {prompt}" for prompt, count in self.found.items()) or "nothing"
        counts = [(self.images, "picture"), (self.frames, "frame")]
        looked = [counted(number, noun) for number, noun in counts if number] or ["no picture"]
        wrote = [printable(f"wrote {path}") for path in self.written]
        failed = [f"{self.unread} could not be read whole, see above"] if self.problems else []
        return [f"{' and '.join(looked)}: {found}", *wrote, *self.changes, *failed]


@dataclass(frozen=True)
class _Run:
    pipeline: Pipeline
    prompts: Sequence[Prompt]
    threshold: float
    top: int | None
    frames: int | None
    output: Path
    summary: Summary
    progress: Progress
    report: Callable[[str], None]

    def problem(self, error: SourceError, unread: int = 1) -> None:
        self.summary.problems.append(str(error))
        self.summary.unread += unread
        self.tell(error)

    def tell(self, error: SourceError) -> None:
        self.report(str(error))

    def detect(self, images: Sequence[Image]) -> Iterator[list[Detections]]:
        for found in self.pipeline.stream(images, self.prompts, threshold=self.threshold, top=self.top):
            self.summary.count(found)
            yield found


def infer(
    engines: Path,
    *,
    images: Sequence[str] = (),
    video: str | None = None,
    prompts: Sequence[str] = (),
    boxes: Sequence[str] = (),
    conf: float = THRESHOLD,
    top: int | None = None,
    frames: int | None = None,
    output: Path = Path("out"),
    threads: int | None = None,
    console: Console | None = None,
) -> Summary:
    """Detect on pictures (files, folders, globs, ``package:`` specs) and a video, and write what was found.

    ``engines`` is a variant's directory. ``boxes`` are example boxes ``x0,y0,x1,y1`` in pixels (``…:0`` for one that
    shows something else); together they make one more prompt, which is the same on every picture and frame. ``top``
    keeps that many best detections of each prompt whatever their score, ``frames`` stops the video after that many.
    Messages and the progress bar go to ``console`` (standard error by default; the bar only on a terminal).

    A picture that cannot be read, or a video that ends early, is in the summary's ``problems``, and all else is done.
    Raises :class:`RecordError` and :class:`EngineError` as :func:`load` does, :class:`SourceError` where a spec names
    nothing, :class:`PromptError`, and :class:`OutputError`.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    asked = [Prompt(text) for text in prompts] + ([_box_prompt(boxes)] if boxes else [])
    if not asked:
        raise PromptError("nothing to look for", "give at least one --prompt, such as --prompt person")
    if not images and video is None:
        raise SourceError("nothing to look at", "give --images or --video")
    # Wrong names end the command before engines are loaded.
    left_out: list[LeftOut] = []
    sources = expand_images(images, left_out.append)
    if video is not None:
        locate(video)
    quiet_decoders()
    summary = Summary()
    for folder in (output, output / "images"):
        remove_abandoned_parts(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        load(engines, threads=threads) as pipeline,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        report = _reporter(console)
        if video is not None and boxes:
            report(BOX_ON_VIDEO)
        if unseen := boxes_in(prompts):
            report(unseen)
        run = _Run(pipeline, asked, conf, top, frames, output, summary, progress, report)
        for one in left_out:
            if one.pictures:
                run.problem(one, one.pictures)
            else:
                run.tell(one)
        if sources:
            _infer_images(run, sources)
        if video is not None:
            try:
                _infer_video(run, video)
            except SourceError as error:
                run.problem(error)
    return summary


def _reporter(console: Console) -> Callable[[str], None]:
    return lambda message: console.print(message, markup=False, highlight=False)


def _box_prompt(boxes: Sequence[str]) -> Prompt:
    parsed = [_parse_box(text) for text in boxes]
    return Prompt(boxes=tuple(box for box, _ in parsed), labels=tuple(label for _, label in parsed))


def _parse_box(text: str) -> tuple[Box, int]:
    """``x0,y0,x1,y1`` with ``:0`` or ``:1`` behind it."""
    corners, _, label = text.partition(":")
    try:
        x0, y0, x1, y1 = (float(number) for number in corners.split(","))
        return (x0, y0, x1, y1), int(label or 1)
    except ValueError:
        raise PromptError(f"{text!r} is no box", "write x0,y0,x1,y1 in pixels, such as 10,20,200,180") from None


def quiet_decoders() -> None:
    """One message about a damaged file is ours; OpenCV and FFmpeg would print their own beside it."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _infer_images(run: _Run, sources: Sequence[ImageSource]) -> None:
    names = unique([_written_name(source.name) for source in sources])
    targets = {source.name: run.output / "images" / name for source, name in zip(sources, names, strict=True)}
    _refuse_to_overwrite(sources, targets)
    lines = run.output / "images.jsonl"
    with closing(JsonLines(lines)) as file:
        task = run.progress.add_task("pictures", total=len(sources))
        for batch in _chunks(iter(sources), run.pipeline.batch):
            read = load_all(batch, run.problem)
            for (source, image), found in zip(read, run.detect([image for _, image in read]), strict=True):
                write_picture(targets[source.name], draw(image, found))
                size = (image.shape[0], image.shape[1])
                file.write({"image": source.name} | as_line(size, found))
                run.summary.images += 1
            run.progress.advance(task, len(batch))
    run.summary.written += [run.output / "images", lines]


def _written_name(name: str) -> str:
    """What the annotated picture is called: a picture may be called anything, and its copy needs a suffix that OpenCV
    writes, and room for what is put behind the name while it is written."""
    folder, slash, last = name.rpartition("/")
    suffix = Path(last).suffix
    if suffix.lower() not in _WRITTEN:
        suffix = ".png"
        last += suffix
    return f"{folder}{slash}{shortened(last.removesuffix(suffix))}{suffix}"


def _refuse_to_overwrite(sources: Sequence[ImageSource], targets: dict[str, Path]) -> None:
    inputs = {source.path.resolve() for source in sources}
    for target in targets.values():
        if target.resolve() in inputs:
            raise OutputError(
                f"{target} is one of the pictures given, and would be overwritten", "choose another --output"
            )


def _chunks(items: Iterator[ImageSource], size: int) -> Iterator[list[ImageSource]]:
    while chunk := list(islice(items, size)):
        yield chunk


# --- video ------------------------------------------------------------------------------------------------------------


def _infer_video(run: _Run, spec: str) -> None:
    with read_video(spec) as video:
        target = run.output / f"{shortened(Path(video.info.name).stem)}.mp4"
        if target.resolve() == locate(spec).resolve():
            raise OutputError(f"{target} is the video given, and would be overwritten", "choose another --output")
        lines = target.with_name(f"{target.name}.jsonl")
        with closing(VideoSink(target, video.pace.fps)) as sink, closing(JsonLines(lines)) as file:
            task = run.progress.add_task("frames", total=run.frames or video.info.frames)
            frames = islice(video.numbered(), run.frames)
            ended = False
            while not ended:
                batch, ended = _read_frames(run, frames)
                for frame, found in zip(batch, run.detect([frame.image for frame in batch]), strict=True):
                    height, width = frame.image.shape[:2]
                    sink.write(draw(frame.image, found), frame.seconds)
                    line = {"video": video.info.name, "frame": frame.number, "seconds": round(frame.seconds, 4)}
                    file.write(line | as_line((height, width), found))
                    run.summary.frames += 1
                run.progress.advance(task, len(batch))
    run.summary.written += [target, lines] if sink.frames else [lines]
    run.summary.changes += sink.changes


def _read_frames(run: _Run, frames: Iterator[Frame]) -> tuple[list[Frame], bool]:
    """A batch of frames, and whether the video is at its end. One that ends early is reported; its frames count."""
    batch: list[Frame] = []
    try:
        for frame in islice(frames, run.pipeline.batch):
            batch.append(frame)
    except VideoEndsEarly as error:
        run.problem(error)
        return batch, True
    return batch, len(batch) < run.pipeline.batch
