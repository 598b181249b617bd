"""What ``sam3-runtime stream`` does: sources in, what :mod:`sam3_runtime.streams.outputs` writes out, and a summary.

The first Ctrl-C (or SIGTERM) ends the run as its end would: what is looked at is finished, and all files are closed.
The second ends it at once. Knows no backend.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sam3_runtime.cli.infer import quiet_decoders
from sam3_runtime.core.errors import OutputError, printable
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.detector import open_detector
from sam3_runtime.imaging.fonts import boxes_in
from sam3_runtime.media.sinks import reported
from sam3_runtime.streams.cameras import PICTURES_FPS, Source, find_sources
from sam3_runtime.streams.flow import Flow, FlowSettings, Result
from sam3_runtime.streams.outputs import KINDS, Outputs, check_output
from sam3_runtime.streams.readers import LiveSettings
from sam3_runtime.streams.summaries import RunSummary, rows_of


@dataclass(frozen=True)
class StreamOutcome:
    """What :func:`run_stream` did. ``changes`` say what a file that was written has not as its source has it;
    ``signalled`` is the number of the signal that ended the run, if one did."""

    summary: RunSummary
    written: Sequence[Path]
    changes: Sequence[str] = ()
    signalled: int | None = None

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 after Ctrl-C; 1 where a source could not be read whole."""
        if self.signalled is not None:
            return 128 + self.signalled
        return 1 if self.summary.total.failures else 0

    def table(self) -> Table:
        rows = rows_of(self.summary)
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*row.values())
        return table

    def lines(self) -> list[str]:
        """For people: what was found, a thing in each frame counted each time, and where it was written; the last says
        whether anything is missing."""
        found = ", ".join(f"{count} x {name}" for name, count in self.summary.found.items()) or "nothing"
        names = ", ".join(path.name for path in self.written)
        wrote = [printable(f"wrote {names} in {self.written[0].parent}")] if names else []
        partial = [one.source for one in self.summary.sources if one.failures]
        failed = [f"not read whole, see above: {', '.join(partial)}"] if partial else []
        ended = ["ended by a signal: what came later was not looked at"] if self.signalled is not None else []
        looked = f"found in {counted(self.summary.total.frames, 'frame')}: {found}"
        return [looked, *wrote, *self.changes, *failed, *ended]


def parse_kinds(text: str) -> tuple[str, ...]:
    """``video,jsonl`` → its kinds; :class:`OutputError` for one that there is not."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise OutputError(f"{kind!r} is nothing that is saved", f"name some of {', '.join(KINDS)}")
    return kinds


def run_stream(
    engines: Path,
    classes: Path,
    sources: Sequence[str | Path | Source],
    *,
    cameras: int | None = None,
    fps: float = PICTURES_FPS,
    track: bool = False,
    frames: int | None = None,
    save: Sequence[str] = ("video", "jsonl"),
    output: Path = Path("out"),
    threads: int | None = None,
    top: int | None = None,
    live: LiveSettings | None = None,
    callback: Callable[[Result], None] | None = None,
    console: Console | None = None,
) -> StreamOutcome:
    """Detect the ``classes`` of a bank or a project file on ``sources``, and write what was found under ``output``.

    ``callback`` gets every result too, before it is written. Messages and progress go to ``console`` (standard error by
    default). Wrong names and a folder that cannot be written are told before an engine is opened.

    Raises what :func:`open_detector`, :func:`find_sources` and :class:`Outputs` raise.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    tell = _teller(console)
    quiet_decoders()
    found = find_sources(sources, cameras, fps)
    with ExitStack() as stack:
        if save:
            check_output(output, found)
        detector = stack.enter_context(open_detector(engines, classes, top=top, threads=threads))
        if detector.saved is not None:
            tell(detector.saved)
        drawn = {"video", "images"}.intersection(save)
        if unseen := boxes_in(one.name for one in detector.classes) if drawn else None:
            tell(unseen)
        settings = FlowSettings(frames=frames, live=live or LiveSettings())
        flow = Flow(detector, found, track=track, settings=settings, tell=tell)
        signals = stack.enter_context(_ended_by_signals(flow))
        outputs = Outputs(output, found, save, detector.classes) if save else None
        with outputs or nullcontext(), flow:
            for result in _shown(flow, console):
                if callback is not None:
                    callback(result)
                if outputs is not None:
                    outputs.put(result)
        summary = flow.summary()
    written: list[Path] = []
    if outputs is not None:
        written += outputs.written
        path = output / "summary.json"
        with reported(path):
            write_atomically(path, f"{summary.model_dump_json(indent=2)}\n".encode())
        written.append(path)
    changes = outputs.changes if outputs is not None else ()
    return StreamOutcome(summary, written, changes, signals[0] if signals else None)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda message: console.print(message, markup=False, highlight=False)


def _shown(flow: Flow, console: Console) -> Iterator[Result]:
    """The results, with a progress bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("frames", total=flow.expected)
        for result in flow:
            yield result
            progress.advance(task)


@contextmanager
def _ended_by_signals(flow: Flow) -> Iterator[list[int]]:
    """Have Ctrl-C and SIGTERM end ``flow`` well; gives a list that then holds the signal's number. A second one does
    what it does by itself."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        flow.stop()

    try:
        for one in (signal.SIGINT, signal.SIGTERM):
            before[one] = signal.signal(one, end)
    except ValueError:  # not the main thread: whoever has that one handles signals
        restore()
    try:
        yield received
    finally:
        restore()
