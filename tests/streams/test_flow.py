"""Runs over several sources: nothing lost, nothing held up, nothing hanging, whatever happens."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

import sam3_runtime
from sam3_runtime.core.errors import EngineError, SourceError
from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.images import TakeFromSources, images_of
from sam3_runtime.plan.variants import Variant
from sam3_runtime.streams.cameras import Source
from sam3_runtime.streams.flow import BatchResults, Flow, FlowSettings, Result, stream
from sam3_runtime.streams.readers import LiveSettings
from tests.fake_variant import write_fake_variant
from tests.streaming import CLASSES, Capture, Listed, Seeing, camera, picture, threads_of_runs, within


def run(detector: Any, sources: Sequence[Source], **options: Any) -> tuple[list[Result], Flow]:
    """All results and the flow, once it has ended."""

    def work() -> tuple[list[Result], Flow]:
        with Flow(detector, sources, **options) as flow:
            return list(flow), flow

    results = within(work)
    assert threads_of_runs() == []
    return results


def numbers(results: Sequence[Result], source: str) -> list[int]:
    return [one.number for one in results if one.source == source]


def values(results: Sequence[Result], source: str) -> list[int]:
    return [int(one.detections[0].query_index[0]) for one in results if one.source == source]


def once(**others: Any) -> FlowSettings:
    """A live source that ends is given up."""
    return FlowSettings(live=LiveSettings(attempts=1, **others))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_frame_of_every_file_comes_in_order(batch: int) -> None:
    sources = [
        Listed("a", [picture(n, (24, 32)) for n in range(50)], fps=10),
        Listed("b", [picture(n + 100, (40, 20)) for n in range(7)], fps=25),
        Listed("c", [picture(n + 150, (9 + n, 30)) for n in range(23)], fps=4),
    ]
    detector = Seeing(batch)
    results, flow = run(detector, sources)
    assert numbers(results, "a") == values(results, "a") == list(range(50))
    assert values(results, "b") == list(range(100, 107))
    assert values(results, "c") == list(range(150, 173))
    assert [one.seconds for one in results if one.source == "c"][:3] == [0, 0.25, 0.5]
    assert all(one.image.shape[:2] == one.detections[0].masks.shape[1:] for one in results)
    assert max(map(len, detector.rounds_seen)) <= batch
    summary = flow.summary()
    assert [(one.source, one.frames, one.dropped) for one in summary.sources] == [
        ("a", 50, 0),
        ("b", 7, 0),
        ("c", 23, 0),
    ]
    assert (summary.total.frames, summary.rounds, summary.found) == (
        80,
        len(detector.rounds_seen),
        {"cup": 80, "cat": 0},
    )


def test_a_round_holds_frames_of_several_sources() -> None:
    sources = [Listed(f"s{n}", [picture(n)] * 20) for n in range(4)]
    detector = Seeing(4)
    run(detector, sources, settings=FlowSettings(patience=30))
    assert len(detector.rounds_seen) <= 22, "20 would all be full"
    assert sum(len(set(one)) > 1 for one in detector.rounds_seen) >= 18


def test_readers_wait_for_who_takes_the_results() -> None:
    source = Listed("a", [picture(n) for n in range(200)])

    def work() -> list[int]:
        ahead = []
        with Flow(Seeing(2), [source]) as flow:
            for count, _ in enumerate(flow, 1):
                ahead.append(source.given - count)
        return ahead

    # Inbox 4, a round of 2, results 4, and the one that the reader holds.
    assert max(within(work)) <= 11
    assert source.given == 200


def test_only_so_many_frames_of_each() -> None:
    results, flow = run(Seeing(4), [Listed("a", [picture(0)] * 30), Listed("b", [picture(0)] * 3)],
                        settings=FlowSettings(frames=5))  # fmt: skip
    assert (numbers(results, "a"), numbers(results, "b")) == ([0, 1, 2, 3, 4], [0, 1, 2])
    assert flow.expected == 8


def test_a_file_that_breaks_off_keeps_what_there_was_and_stops_no_other() -> None:
    told: list[str] = []
    broken = SourceError("b.mp4 ends early", "copy it again")
    sources = [Listed("a", [picture(n) for n in range(20)]), Listed("b", [picture(0), picture(1), broken])]
    results, flow = run(Seeing(4), sources, report=told.append)
    assert (len(numbers(results, "a")), numbers(results, "b")) == (20, [0, 1])
    assert told == ["b.mp4 ends early\nHint: copy it again"]
    assert flow.summary().sources[1].problems == tuple(told)
    assert flow.summary().total.failures == 1


def test_a_source_without_a_frame() -> None:
    results, flow = run(Seeing(4), [Listed("a", []), Listed("b", [picture(0)])])
    assert len(results) == 1
    assert flow.summary().sources[0].latency_p95 is None


def test_tracks_are_of_each_source() -> None:
    results, _ = run(Seeing(2), [Listed("a", [picture(0)] * 6), Listed("b", [picture(0)] * 6)], track=True)
    for source in ("a", "b"):
        tracks = [one.tracks for one in results if one.source == source]
        assert all(one is not None and [len(row) for row in one] == [1, 0] for one in tracks)
        assert [one[0][0] for one in tracks if one is not None][-1] == 1, "each source counts from one"


def test_without_tracks_there_are_none() -> None:
    assert [one.tracks for one in run(Seeing(2), [Listed("a", [picture(0)])])[0]] == [None]


# --- live sources -----------------------------------------------------------------------------------------------------


def test_the_newest_frame_wins_and_dropped_ones_are_counted() -> None:
    given = Event()

    def frames() -> Iterator[Image]:
        yield from (picture(n) for n in range(100))
        given.set()

    detector = Seeing(1, before=lambda _: given.wait(60) and None)
    results, flow = run(detector, [camera("cam", [Capture(frames())])], settings=once())
    dropped = flow.summary().sources[0].dropped
    assert values(results, "cam")[-1] == 99
    assert len(results) + dropped == 100
    assert dropped >= 97, "one was looked at meanwhile"


# --- ending -----------------------------------------------------------------------------------------------------------


def test_what_the_detector_raises_ends_the_run() -> None:
    def fail(images: Sequence[Image]) -> None:
        if images[0][0, 0, 0] > 20:
            raise EngineError("the decoder failed to run", "look at the GPU")

    sources = [Listed("a", [picture(n) for n in range(200)]), camera("cam", [Capture(picture(n) for n in range(5))])]
    taken = []

    def work() -> None:
        for result in stream(Seeing(1, before=fail), sources):
            taken.append(result)

    assert sam3_runtime.stream is stream
    with pytest.raises(EngineError, match="the decoder failed to run"):
        within(work)
    assert numbers(taken, "a") == list(range(21)), "what was found before is given"
    assert threads_of_runs() == []


def test_a_defect_in_a_source_ends_the_run() -> None:
    sources = [Listed("a", [picture(0), ZeroDivisionError("a defect")]), Listed("b", [picture(0)] * 100)]
    with pytest.raises(ZeroDivisionError, match="a defect"):
        run(Seeing(4), sources)
    assert threads_of_runs() == []


def test_what_is_raised_while_results_are_taken_leaves_no_thread() -> None:
    def work() -> None:
        for _ in stream(Seeing(2), [Listed("a", [picture(0)] * 500), Listed("b", [picture(0)] * 500)]):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        within(work)
    gc.collect()
    assert threads_of_runs() == []


def test_leaving_early_leaves_no_thread() -> None:
    def work() -> int:
        results = stream(Seeing(2), [Listed("a", [picture(0)] * 500)])
        return next(results).number

    assert within(work) == 0
    gc.collect()
    assert threads_of_runs() == []


def test_asked_to_stop_it_finishes_what_is_looked_at() -> None:
    started, go = Event(), Event()

    def wait(_: Sequence[Image]) -> None:
        started.set()
        assert go.wait(60)

    detector = Seeing(2, before=wait)
    flow = Flow(detector, [Listed("a", [picture(n) for n in range(100)])])

    def work() -> list[int]:
        with flow:
            assert started.wait(60)
            flow.stop()
            go.set()
            return [result.number for result in flow]

    taken = within(work)
    assert taken == list(range(sum(map(len, detector.rounds_seen))))
    assert 0 < len(taken) < 100
    assert flow.summary().total.frames == len(taken)
    assert threads_of_runs() == []


def test_it_runs_inside_with() -> None:
    with pytest.raises(RuntimeError, match="inside `with`"):
        next(iter(Flow(Seeing(), [Listed("a", [])])))


def test_each_image_comes_with_its_source_and_the_end_of_a_source_is_told() -> None:
    detector = Seeing(batch=2)
    short, long = Listed("short", [picture(n) for n in range(2)]), Listed("long", [picture(n) for n in range(10, 15)])
    with Flow(detector, [short, long]) as flow:
        assert len(list(flow)) == 7
    seen = [one for batch in detector.sources_seen for one in batch]
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert [source for source, _ in detector.ended] == [0, 1]
    answered = dict(detector.ended)
    assert answered[0] >= seen.index((0, 1)) + 1, "not before its last image was answered"
    assert answered[0] < 7, "and not only when the run ends"
    assert answered[1] == 7


def test_what_an_ended_source_raises_ends_the_run() -> None:
    detector = Seeing()
    detector.source_ended = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), Flow(detector, [Listed("a", [picture(1)])]) as flow:
        list(flow)


def fail(_: int) -> None:
    raise ZeroDivisionError


# --- long runs --------------------------------------------------------------------------------------------------------


class OnFakeEngines:
    """Two classes, on the fake backend."""

    classes = CLASSES

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self.batch = pipeline, pipeline.batch

    def rounds(self, take: TakeFromSources) -> BatchResults:
        return self._pipeline.rounds(images_of(take), ["cup", "cat"], top=1)

    def source_ended(self, source: int) -> None:
        pass


def test_memory_stays_flat_over_ten_thousand_frames(tmp_path: Path) -> None:
    """By what is alive: images, and things that wait."""
    variant = write_fake_variant(tmp_path / "b8_q5_r112", Variant((8, 5, 112)))
    assert variant.batch == 8
    alive: set[int] = set()
    most = {"images": 0, "waiting": 0}

    def frames(count: int) -> Iterator[Image]:
        for number in range(count):
            image = np.full((16, 16, 3), number % 256, np.uint8)
            alive.add(id(image))
            weakref.finalize(image, alive.discard, id(image))
            yield image

    sources = [Listed(f"s{n}", frames(1250)) for n in range(8)]
    with load(tmp_path / "b8_q5_r112") as pipeline:

        def work() -> int:
            count = 0
            with Flow(OnFakeEngines(pipeline), sources) as flow:
                for _ in flow:
                    count += 1
                    most["images"] = max(most["images"], len(alive))
                    most["waiting"] = max(most["waiting"], sum(flow.waiting()))
            return count

        assert within(work, 300) == 10_000
    # Two a source in the inbox, one in each reader's hand; a round, two of results, one in ours.
    assert most["waiting"] <= 16 + 16
    assert most["images"] <= 16 + 8 + 8 + 16 + 2
