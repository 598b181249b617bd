"""The command ``sam3-runtime stream``, and the run that it shares with ``infer``: from sources to files and a summary.

The first Ctrl-C (or SIGTERM) stops the run after the current batch, and closes all files. The second one ends it at
once. Independent of the backend.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from sam3_runtime.core.errors import printable
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.detector import open_detector
from sam3_runtime.families.sam3.prompts import Box, Prompt, PromptError, check_unit
from sam3_runtime.imaging.fonts import glyph_warning
from sam3_runtime.media.sinks import reported
from sam3_runtime.media.sources import quiet_decoders
from sam3_runtime.report.progress import messages, reporter, tracked
from sam3_runtime.streams.cameras import IMAGES_FPS, ImageFiles, Source, find_sources
from sam3_runtime.streams.flow import Flow, FlowSettings, Result
from sam3_runtime.streams.outputs import Outputs, check_output, kinds_of
from sam3_runtime.streams.readers import LiveSettings
from sam3_runtime.streams.summaries import RunSummary, rows_of

BOX_ON_VIDEO = (
    "--box is the same example on every frame and follows nothing; to follow things, write the box into a project file "
    "as a class's example and run: sam3-runtime stream PROJECT.yaml --engines VARIANT --source VIDEO --track"
)
"""The notice for a video with an example box."""
Classes = Path | Sequence[Prompt]
"""A project file, a bank, or prompts."""


@dataclass(frozen=True)
class StreamOutcome:
    """The result of :func:`run_stream`.

    ``changes`` are messages about differences between a written video and its source; ``signalled`` is the number of
    the signal that ended the run, if any.
    """

    summary: RunSummary
    written: Sequence[Path]
    changes: Sequence[str] = ()
    signalled: int | None = None

    @property
    def exit_code(self) -> int:
        """As in shells: 130 after Ctrl-C; 1 if a source could not be read completely."""
        if self.signalled is not None:
            return 128 + self.signalled
        return 1 if self.summary.total.failures else 0

    def table(self) -> Table:
        """Return frames, rates and latencies of each source."""
        rows = rows_of(self.summary)
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*row.values())
        return table

    def lines(self) -> list[str]:
        """Return lines for people: the detections, summed over all frames, the files, and what is incomplete."""
        found = ", ".join(f"{count} x {name}" for name, count in self.summary.found.items()) or "nothing"
        names = ", ".join(path.name for path in self.written)
        wrote = [printable(f"wrote {names} in {self.written[0].parent}")] if names else []
        partial = [one.source for one in self.summary.sources if one.failures]
        failed = [f"incomplete, see above: {', '.join(partial)}"] if partial else []
        ended = ["ended by a signal: later frames were not processed"] if self.signalled is not None else []
        first = f"found in {counted(self.summary.total.frames, 'image')}: {found}"
        return [first, *wrote, *self.changes, *failed, *ended]


def classes_of(
    project: Path | None = None,
    bank: Path | None = None,
    prompts: Sequence[str] = (),
    boxes: Sequence[str] = (),
    relative_boxes: bool = False,
) -> Classes:
    """Return the classes that a command's options name, from exactly one of: a project file, a bank, prompts.

    ``boxes`` are ``x0,y0,x1,y1`` in pixels, or from 0 to 1 with ``relative_boxes``, each with ``:0`` appended if it
    shows something else; together they are one more prompt. Raises :class:`PromptError`.
    """
    own = [Prompt(text) for text in prompts] + ([_box_prompt(boxes, relative_boxes)] if boxes else [])
    given = [one for one in (project, bank, own) if one]
    if len(given) != 1:
        what = "classes are given in several ways" if given else "no classes are given"
        raise PromptError(what, "give one of: a project file such as shop.yaml, --bank shop.npz, --prompt person")
    return given[0]


def _box_prompt(texts: Sequence[str], relative: bool) -> Prompt:
    parsed = [_parse_box(text) for text in texts]
    boxes = tuple(box for box, _ in parsed)
    if not relative:
        check_unit(boxes, "--relative-boxes")
    return Prompt(boxes=boxes, labels=tuple(label for _, label in parsed), relative=relative)


def _parse_box(text: str) -> tuple[Box, int]:
    """``x0,y0,x1,y1``, and ``:0`` or ``:1`` after it."""
    corners, _, label = text.partition(":")
    try:
        x0, y0, x1, y1 = (float(number) for number in corners.split(","))
        return (x0, y0, x1, y1), int(label or 1)
    except ValueError:
        raise PromptError(f"{text!r} is not a box", "write x0,y0,x1,y1, such as 10,20,200,180") from None


def run_stream(
    engines: Path,
    classes: Classes,
    sources: Sequence[str | Path | Source],
    *,
    cameras: int | None = None,
    fps: float = IMAGES_FPS,
    track: bool = False,
    frames: int | None = None,
    save: Sequence[str] | None = ("video", "jsonl"),
    output: Path = Path("out"),
    threads: int | None = None,
    conf: float | None = None,
    top: int | None = None,
    live: LiveSettings | None = None,
    callback: Callable[[Result], None] | None = None,
    console: Console | None = None,
) -> StreamOutcome:
    """Detect ``classes`` (a project file, a bank, or prompts) on ``sources``, and write the results under ``output``.

    ``save`` are kinds of output of all sources; None for each source's own. ``conf`` replaces the thresholds of all
    classes. ``callback`` is called with every result, before it is written. Messages and progress go to ``console``
    (standard error by default). Sources and ``output`` are checked before an engine is opened.

    Raises as :func:`open_detector`, :func:`find_sources` and :class:`Outputs` do.
    """
    console = messages(console)
    report = reporter(console)
    quiet_decoders()
    found = find_sources(sources, cameras, fps)
    kinds = frozenset[str]().union(*kinds_of(found, save).values())
    with ExitStack() as stack:
        if kinds:
            check_output(output, found)
        detector = stack.enter_context(open_detector(engines, classes, threshold=conf, top=top, threads=threads))
        if detector.saved is not None:
            report(detector.saved)
        if kinds & {"video", "images"} and (no_glyph := glyph_warning(one.name for one in detector.classes)):
            report(no_glyph)
        has_boxes = not isinstance(classes, Path) and any(prompt.boxes for prompt in classes)
        if has_boxes and not all(isinstance(source, ImageFiles) for source in found):
            report(BOX_ON_VIDEO)
        settings = FlowSettings(frames=frames, live=live or LiveSettings())
        flow = Flow(detector, found, track=track, settings=settings, report=report)
        signals = stack.enter_context(_stopped_by_signals(flow))
        outputs = Outputs(output, found, save, detector.classes) if kinds else None
        with outputs or nullcontext(), flow:
            for result in tracked(flow, flow.expected, "frames", console):
                if callback is not None:
                    callback(result)
                if outputs is not None:
                    outputs.put(result)
        summary = flow.summary()
    signalled = signals[0] if signals else None
    if outputs is None:
        return StreamOutcome(summary, [], signalled=signalled)
    path = output / "summary.json"
    with reported(path):
        write_atomically(path, f"{summary.model_dump_json(indent=2)}\n".encode())
    return StreamOutcome(summary, [*outputs.written, path], outputs.changes, signalled)


@contextmanager
def _stopped_by_signals(flow: Flow) -> Iterator[list[int]]:
    """Stop ``flow`` on Ctrl-C and SIGTERM; yields a list that then contains the signal's number.

    A second signal has its default effect.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        flow.stop()

    with suppress(ValueError):  # only the main thread may set handlers
        for one in (signal.SIGINT, signal.SIGTERM):
            before[one] = signal.signal(one, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
