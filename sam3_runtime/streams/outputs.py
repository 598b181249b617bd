"""Draws and writes the results of a run, beside it: in a pool of threads, and each source's frames in order.

    <output>/<source>.mp4          annotated video, with the times of the source
    <output>/<source>/<frame>.jpg  annotated images
    <output>/<source>.jsonl        a line for each frame: size, detections with score, box, RLE mask and track
    <output>/coco.json             all frames of all sources in COCO's format

The names of images and lines are the source's; `sam3-runtime infer` has its own. At most ``capacity`` results are
held: after that :meth:`Outputs.put` waits. The first error is raised by the next :meth:`Outputs.put`, and at the end;
what was written until then stays, whole. The lines of a live source can be read during the run. Partial files of a
killed run are removed by the next one. Depends on files and drawing, not on engines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Semaphore
from types import TracebackType
from typing import Any

from typing_extensions import Self

from sam3_runtime.core.errors import OutputError
from sam3_runtime.core.files import check_writable, remove_abandoned_parts
from sam3_runtime.families.sam3.banks import ClassInfo
from sam3_runtime.imaging.drawing import draw
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sinks import LONGEST_STILL, JsonLines, VideoSink, as_line, write_image
from sam3_runtime.streams.cameras import Source
from sam3_runtime.streams.coco_results import CocoFile
from sam3_runtime.streams.flow import Result

KINDS = ("video", "images", "jsonl", "coco")
_LONGEST_LIVE_STILL = 2.0  # seconds for which a frame of a live source replaces those that were dropped


class _Target:
    """The files of one source, and the thread that writes them."""

    def __init__(self, source: Source, kinds: frozenset[str]) -> None:
        self.source, self.kinds = source, kinds
        self.video: VideoSink | None = None
        self.lines: JsonLines | None = None
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="write")


class Outputs:
    """The files of a run: a context manager.

    ``save`` are some of :data:`KINDS`, of every source; without it each source has its own. ``classes`` are the
    detector's. ``written`` and ``changes`` are complete at the end: the files, and how a video differs from its source.

    Raises :class:`OutputError` as :func:`check_output` does, and where a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        save: Sequence[str] | None,
        classes: Sequence[ClassInfo],
        *,
        workers: int | None = None,
    ) -> None:
        self.folder = folder
        self._colors = [one.color for one in classes]
        check_output(folder, sources)
        for one in (folder, *(folder / source.name for source in sources)):
            remove_abandoned_parts(one)
        kinds = kinds_of(sources, save)
        self._targets = {source.name: _Target(source, kinds[source.name]) for source in sources}
        workers = workers or max(2, min(8, (os.cpu_count() or 2) // 2))
        self.capacity = 2 * workers
        self._capacity = Semaphore(self.capacity)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="write")
        self._coco: CocoFile | None = None
        self._coco_lock = Lock()
        if any("coco" in target.kinds for target in self._targets.values()):
            self._coco = CocoFile(folder / "coco.json", list(self._targets), [one.name for one in classes])
        self._error: BaseException | None = None
        self.written: list[Path] = []
        self.changes: list[str] = []

    def put(self, result: Result) -> None:
        """Have ``result`` written; waits while :attr:`capacity` results are held. Raises the first error so far."""
        self._capacity.acquire()
        if self._error is not None:
            self._capacity.release()
            raise self._error
        target = self._targets[result.source]
        prepared = self._pool.submit(self._prepare, target, result)
        target.writer.submit(self._write_in_order, target, result, prepared)

    def _prepare(self, target: _Target, result: Result) -> tuple[Image | None, dict[str, Any] | None]:
        """Return the annotated frame and its JSON line, as far as they are to be written."""
        drawn = line = None
        if target.kinds & {"video", "images"}:
            drawn = draw(result.image, result.detections, self._colors, result.tracks)
        if target.kinds & {"jsonl", "coco"}:
            size = (result.image.shape[0], result.image.shape[1])
            head = target.source.line_head(result.number, result.seconds)
            line = {**head, **as_line(size, result.detections, result.tracks)}
        return drawn, line

    def _write_in_order(self, target: _Target, result: Result, prepared: Future[Any]) -> None:
        try:
            drawn, line = prepared.result()
            if self._error is None:
                self._write(target, result, drawn, line)
        except BaseException as error:  # raised by the next `put`, or at the end
            self._error = self._error or error
        finally:
            self._capacity.release()

    def _write(self, target: _Target, result: Result, drawn: Image | None, line: dict[str, Any] | None) -> None:
        source = target.source
        if drawn is not None and "images" in target.kinds:
            write_image(self.folder / source.image_name(result.number), drawn)
        if drawn is not None and "video" in target.kinds:
            if target.video is None:
                longest = _LONGEST_LIVE_STILL if source.live else LONGEST_STILL
                target.video = VideoSink(self.folder / f"{source.name}.mp4", source.fps, longest)
            target.video.write(drawn, result.seconds)
        if line is not None and "jsonl" in target.kinds:
            if target.lines is None:
                target.lines = JsonLines(self.folder / source.lines_name, live=source.live)
            target.lines.write(line)
        if line is not None and self._coco is not None and "coco" in target.kinds:
            categories = [one.prompt_index for one in result.detections for _ in range(len(one))]
            with self._coco_lock:
                self._coco.write(source.name, result.number, round(result.seconds, 4), line, categories)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the remaining results and close all files; raises the first error, unless the block raised one."""
        self._pool.shutdown(wait=True)
        for target in self._targets.values():
            target.writer.shutdown(wait=True)
            for sink in (target.video, target.lines):
                if sink is not None:
                    self._close(sink.path, sink.close)
            self.changes += target.video.changes if target.video else ()
            if (images := self.folder / target.source.name).is_dir() and "images" in target.kinds:
                self.written.append(images)
        if self._coco is not None:
            self._close(self._coco.path, self._coco.close)
        if kind is None and self._error is not None:
            raise self._error

    def _close(self, path: Path, close: Callable[[], None]) -> None:
        try:
            close()
        except OutputError as error:
            self._error = self._error or error
        else:
            self.written.append(path)


def kinds_of(sources: Sequence[Source], save: Sequence[str] | None) -> dict[str, frozenset[str]]:
    """Return which of :data:`KINDS` are written of each source, by its name: ``save``, or else the source's own.

    Raises :class:`OutputError` for an unknown kind.
    """
    for kind in save or ():
        if kind not in KINDS:
            raise OutputError(f"{kind!r} is not a kind of output", f"name some of {', '.join(KINDS)}")
    return {source.name: source.saves if save is None else frozenset(save) for source in sources}


def check_output(folder: Path, sources: Sequence[Source]) -> None:
    """Raise :class:`OutputError` if ``folder`` cannot be written, or if a source's own files would be overwritten."""
    inputs = {path.resolve() for source in sources for path in source.inputs}
    for source in sources:
        images, video = (folder / source.name).resolve(), (folder / f"{source.name}.mp4").resolve()
        for path in inputs:
            if path == video or images in path.parents:
                raise OutputError(
                    f"{path} would be overwritten by the output of {source.name}", "choose another --output"
                )
    check_writable(folder / "summary.json")
