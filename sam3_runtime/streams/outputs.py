"""Draws and writes the results of a run, beside it: in a pool of threads, each source's frames in order.

    <output>/<source>.mp4          annotated video, by the source's clock
    <output>/<source>/<frame>.jpg  annotated pictures
    <output>/<source>.jsonl        a line a frame: size, detections with score, box, RLE mask and track
    <output>/coco.json             all frames of all sources in COCO's format

At most ``room`` results are held: who brings more waits. The first thing that goes wrong is raised to who brings the
next result, and at the end; what was written until then is kept, whole. The lines of a live source are there while it
runs. What a run that was killed left half-written goes when the next one begins. Knows files and drawing, and no
engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Semaphore
from types import TracebackType
from typing import Any

from typing_extensions import Self

from sam3_runtime.core.errors import OutputError
from sam3_runtime.core.files import remove_abandoned_parts, temporary_name
from sam3_runtime.families.sam3.banks import ClassInfo
from sam3_runtime.imaging.drawing import draw
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sinks import LONGEST_STILL, JsonLines, VideoSink, as_line, reported, write_picture
from sam3_runtime.streams.cameras import Source
from sam3_runtime.streams.coco_results import CocoFile
from sam3_runtime.streams.flow import Result

KINDS = ("video", "images", "jsonl", "coco")
_LONGEST_STILL = 2.0  # seconds for which a frame of a live source is shown in place of those that were dropped


@dataclass
class _Prepared:
    """A result, drawn and put into words; whichever of them is to be written."""

    result: Result
    drawn: Image | None
    line: dict[str, Any] | None


@dataclass
class _Target:
    """The files of one source, and which of its results is written next."""

    source: Source
    video: VideoSink | None = None
    lines: JsonLines | None = None
    taken: int = 0
    written: int = 0
    ready: dict[int, _Prepared] = field(default_factory=dict)
    busy: bool = False
    lock: Lock = field(default_factory=Lock)


class Outputs:
    """Where the results of a run are written: a context manager. ``save`` names some of :data:`KINDS`; ``classes`` are
    the detector's.

    :class:`OutputError` as from :func:`check_output`, and where a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        save: Sequence[str],
        classes: Sequence[ClassInfo],
        *,
        workers: int | None = None,
    ) -> None:
        self.folder = folder
        self._save = frozenset(save)
        self._colors = [one.color for one in classes]
        check_output(folder, sources)
        for place in (folder, *(folder / source.name for source in sources)):
            remove_abandoned_parts(place)
        self._targets = {source.name: _Target(source) for source in sources}
        workers = workers or max(2, min(8, (os.cpu_count() or 2) // 2))
        self.room = 2 * workers
        self._room = Semaphore(self.room)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="write")
        self._coco_lock = Lock()
        names = [one.name for one in classes]
        self._coco = CocoFile(folder / "coco.json", list(self._targets), names) if "coco" in self._save else None
        self._error: BaseException | None = None
        self.written: list[Path] = []
        self.changes: list[str] = []
        """What is not in a file as it was in the source."""

    def put(self, result: Result) -> None:
        """Have ``result`` written; waits while too many are. Raises what went wrong with an earlier one."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        target = self._targets[result.source]
        target.taken += 1
        self._pool.submit(self._work, target, target.taken - 1, result)

    def _work(self, target: _Target, turn: int, result: Result) -> None:
        try:
            prepared = self._prepare(result)
        except BaseException as error:  # it is raised to who brings the next one
            self._error = self._error or error
            self._room.release()
            return
        with target.lock:
            target.ready[turn] = prepared
            if target.busy:  # whoever writes this source's frames will come to it
                return
            target.busy = True
        self._write_ready(target)

    def _prepare(self, result: Result) -> _Prepared:
        drawn = line = None
        if self._save & {"video", "images"}:
            drawn = draw(result.image, result.detections, self._colors, result.tracks)
        if self._save & {"jsonl", "coco"}:
            size = (result.image.shape[0], result.image.shape[1])
            line = as_line(size, result.detections, result.tracks)
        return _Prepared(result, drawn, line)

    def _write_ready(self, target: _Target) -> None:
        """Write this source's results, as far as they are there without a gap."""
        while True:
            with target.lock:
                prepared = target.ready.pop(target.written, None)
                if prepared is None:
                    target.busy = False
                    return
                target.written += 1
            try:
                if self._error is None:
                    self._write(target, prepared)
            except BaseException as error:  # as above
                self._error = self._error or error
            finally:
                self._room.release()

    def _write(self, target: _Target, prepared: _Prepared) -> None:
        result, name = prepared.result, target.source.name
        if prepared.drawn is not None and "images" in self._save:
            write_picture(self.folder / name / f"{result.number:08d}.jpg", prepared.drawn)
        if prepared.drawn is not None and "video" in self._save:
            if target.video is None:
                longest = _LONGEST_STILL if target.source.live else LONGEST_STILL
                target.video = VideoSink(self.folder / f"{name}.mp4", target.source.fps, longest)
            target.video.write(prepared.drawn, result.seconds)
        if prepared.line is None:
            return
        seconds = round(result.seconds, 4)
        if "jsonl" in self._save:
            if target.lines is None:
                target.lines = JsonLines(self.folder / f"{name}.jsonl", live=target.source.live)
            place = {"source": name, "frame": result.number, "seconds": seconds}
            target.lines.write(place | prepared.line)
        if self._coco is not None:
            categories = [one.prompt_index for one in result.detections for _ in range(len(one))]
            with self._coco_lock:
                self._coco.write(name, result.number, seconds, prepared.line, categories)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left and close every file that can be; raises what went wrong, unless something did before."""
        self._pool.shutdown(wait=True)
        for target in self._targets.values():
            for sink in (target.video, target.lines):
                if sink is not None:
                    self._close(sink.path, sink.close)
            self.changes += target.video.changes if target.video else ()
            if (pictures := self.folder / target.source.name).is_dir() and "images" in self._save:
                self.written.append(pictures)
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


def check_output(folder: Path, sources: Sequence[Source]) -> None:
    """:class:`OutputError` where ``folder`` cannot be written, or where a file of a source would be overwritten."""
    inputs = {path.resolve() for source in sources for path in source.inputs}
    for source in sources:
        pictures = (folder / source.name).resolve()
        if (folder / f"{source.name}.mp4").resolve() in inputs or any(path.parent == pictures for path in inputs):
            raise OutputError(f"what is written of {source.name} would overwrite it", "choose another --output")
    probe = temporary_name(folder / "probe")
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
