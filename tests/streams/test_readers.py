"""Sources that die, hang or end: each is reported, tried again or given up, and holds nobody up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import pytest

from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.streams.cameras import Source
from sam3_runtime.streams.flow import Flow, FlowSettings, Result
from sam3_runtime.streams.readers import LiveSettings
from tests.streaming import Capture, Clock, Listed, Seeing, camera, picture, threads_of_runs, within
from tests.streams.test_flow import numbers, run, values


def test_a_camera_that_dies_is_tried_again_with_growing_pauses_and_holds_nobody_up() -> None:
    clock, told = Clock(), []

    def report(message: str) -> None:
        told.append(message.splitlines()[-1])
        if "tried again" in message:
            clock.advance(float(message.split(" in ")[-1].split()[0]))

    shut = [Capture([], opens=False) for _ in range(5)]
    cam = camera("cam", [Capture([picture(0)]), *shut, Capture([picture(1), picture(2)])])
    live = LiveSettings(first_pause=1, longest_pause=6, attempts=7)
    results, flow = run(
        Seeing(2), [cam, Listed("a", [picture(n) for n in range(200)])],
        report=report, settings=FlowSettings(live=live, clock=clock),
    )  # fmt: skip
    assert values(results, "a") == list(range(200))
    pauses = [line.split(" in ")[-1] for line in told if "tried again" in line]
    assert pauses[:6] == ["1 s", "2 s", "4 s", "6 s", "6 s", "6 s"]
    assert pauses[6:] == ["1 s", "2 s", "4 s", "6 s", "6 s", "6 s"], "it was back in between"
    assert "cam is available again" in told
    assert told[-1] == "cam is given up after 7 failures in a row"
    summary = flow.summary().sources[0]
    assert summary.frames + summary.dropped == 3
    assert summary.failures == 13
    assert numbers(results, "cam")[-1] == 2, "numbers go on"


def test_a_camera_that_stays_off_for_weeks_ends_no_run() -> None:
    """More failures in a row than a pause can be doubled as a float."""
    clock, pauses = Clock(), []

    def report(message: str) -> None:
        if "tried again" in message:
            pauses.append(float(message.split(" in ")[-1].split()[0]))
            clock.advance(pauses[-1])

    live = LiveSettings(first_pause=1, longest_pause=30, attempts=1200)
    results, flow = run(
        Seeing(1), [camera("cam", []), Listed("a", [picture(n) for n in range(20)])],
        report=report, settings=FlowSettings(live=live, clock=clock),
    )  # fmt: skip
    assert (len(pauses), pauses[4], set(pauses[5:])) == (1199, 16, {30})
    assert values(results, "a") == list(range(20))
    assert flow.summary().sources[0].failures == 1200


@pytest.mark.parametrize("blocks", ["cam is available again", "a has delivered no frame"])
def test_a_message_that_blocks_holds_up_no_other_source(blocks: str) -> None:
    """As a halted terminal does: that another camera gives nothing is noticed all the same."""
    clock, begun, noticed, hang = Clock(), Event(), Event(), Event()
    told: list[str] = []

    def report(message: str) -> None:
        told.append(message)
        if message.startswith("other has delivered no frame"):
            noticed.set()
            flow.stop()
        elif message.startswith("cam delivers no more"):
            clock.advance(1)
        elif message.startswith(blocks):
            pass_the_time()

    def pass_the_time() -> None:
        assert begun.wait(60)
        clock.advance(11)
        assert noticed.wait(60)

    def slow() -> Iterator[Image]:
        pass_the_time()
        yield picture(1)

    def never() -> Iterator[Image | None]:
        begun.set()
        hang.wait(120)
        yield None

    cam = camera("cam", [Capture([picture(0)]), Capture([picture(1)])])
    first = cam if blocks.startswith("cam") else Listed("a", slow())
    live = LiveSettings(stall=10, first_pause=1, attempts=2)
    flow = Flow(
        Seeing(1), [first, camera("other", [Capture(never())])],
        report=report, settings=FlowSettings(live=live, clock=clock),
    )  # fmt: skip

    def work() -> None:
        with flow:
            list(flow)

    try:
        within(work)
    finally:
        hang.set()
    assert any(one.startswith(blocks) for one in told)
    assert noticed.is_set()


def test_a_camera_that_hangs_is_told_and_tried_again() -> None:
    clock, told, hang = Clock(), [], Event()

    def hanging(first: Sequence[Image]) -> Iterator[Image | None]:
        yield from first
        clock.advance(11)
        hang.wait(120)
        yield None

    def report(message: str) -> None:
        told.append(message)
        clock.advance(5)

    captures = [Capture(hanging([picture(0)])), Capture([picture(1)])]
    cam = camera("cam", captures)
    live = LiveSettings(stall=10, first_pause=1, attempts=3)
    try:
        results, _ = run_with_stuck(
            Seeing(1), [cam, Listed("a", [picture(n) for n in range(20)])], report, FlowSettings(live=live, clock=clock)
        )
    finally:
        hang.set()
    assert values(results, "a") == list(range(20))
    assert values(results, "cam") == [0, 1]
    assert told[0] == "cam has delivered no frame for 10 s\ncam is tried again in 1 s"
    assert told[1] == "cam is available again"
    assert captures[0].released.wait(60), "a thread that comes back late closes what it had open"


def run_with_stuck(
    detector: Any, sources: Sequence[Source], report: Any, settings: FlowSettings
) -> tuple[list[Result], Flow]:
    """As :func:`run`, where a thread is left behind in a driver."""

    def work() -> tuple[list[Result], Flow]:
        with Flow(detector, sources, report=report, settings=settings) as flow:
            return list(flow), flow

    return within(work)


def test_a_source_that_never_delivers_leaves_no_more_than_a_few_threads() -> None:
    clock, told, hang = Clock(), [], Event()

    def never() -> Iterator[Image | None]:
        clock.advance(11)
        hang.wait(120)
        yield None

    cam = camera("cam", [Capture(never()) for _ in range(10)])
    seen = Event()

    def report(message: str) -> None:
        told.append(message)
        clock.advance(40)
        if len(told) == 2:
            seen.set()

    def files() -> Iterator[Image]:
        yield from (picture(n) for n in range(10))
        assert seen.wait(60)
        yield picture(10)

    detector = Seeing(1)

    def work() -> list[int]:
        taken = []
        with Flow(detector, [cam, Listed("a", files())], report=report, settings=FlowSettings(clock=clock)) as flow:
            for result in flow:
                taken.append(result.number)
                if result.number == 10:
                    stuck = [name for name in threads_of_runs() if name == "read cam"]
                    assert 2 <= len(stuck) <= 3
                    flow.stop()
        return taken

    try:
        assert within(work) == list(range(11))
    finally:
        hang.set()
    assert told[0] == "cam has delivered no frame for 10 s\ncam is tried again in 1 s"


def test_a_file_that_hangs_is_told() -> None:
    clock, told = Clock(), Event()

    def slow() -> Iterator[Image]:
        yield picture(0)
        clock.advance(11)
        assert told.wait(60)
        yield picture(1)

    messages: list[str] = []

    def report(message: str) -> None:
        messages.append(message)
        told.set()

    results, _ = run(Seeing(1), [Listed("a", slow())], report=report, settings=FlowSettings(clock=clock))
    assert numbers(results, "a") == [0, 1]
    assert messages == ["a has delivered no frame for 10 s; still waiting for it"]
