"""The queues between threads: fair, bounded, and never for ever."""

from __future__ import annotations

from threading import Thread

import pytest

from sam3_runtime.streams.queues import Channel, Inbox
from tests.streaming import within


def filled(*counts: int, capacity: int = 10, limit: int | None = None) -> Inbox[str]:
    inbox: Inbox[str] = Inbox([False] * len(counts), capacity, limit)
    for place, count in enumerate(counts):
        for number in range(count):
            inbox.put(place, f"{'abcdef'[place]}{number}")
        inbox.end(place)
    return inbox


def test_sources_take_turns_and_their_frames_stay_in_order() -> None:
    inbox = filled(3, 1, 2)
    assert inbox.take(4, 0) == [(0, "a0"), (1, "b0"), (2, "c0"), (0, "a1")]
    assert inbox.take(4, 0) == [(2, "c1"), (0, "a2")]
    assert inbox.take(4, 0) == []


def test_a_round_begins_behind_the_last_ones_end() -> None:
    inbox = filled(3, 3, 3)
    assert [place for place, _ in inbox.take(2, 0)] == [0, 1]
    assert [place for place, _ in inbox.take(2, 0)] == [2, 0]
    assert [place for place, _ in inbox.take(2, 0)] == [1, 2]


def test_one_source_may_fill_a_round() -> None:
    assert filled(3).take(8, 0) == [(0, "a0"), (0, "a1"), (0, "a2")]


def test_a_source_with_nothing_holds_the_others_up_for_a_moment_only() -> None:
    inbox: Inbox[str] = Inbox([False, False], 2)
    inbox.put(0, "a0")
    assert within(lambda: inbox.take(2, 0.01)) == [(0, "a0")]


def test_a_round_waits_for_a_frame_that_comes_soon() -> None:
    inbox: Inbox[str] = Inbox([True, True])
    inbox.put(0, "a0")
    late = Thread(target=lambda: inbox.put(1, "b0"))
    late.start()
    assert within(lambda: inbox.take(2, 30)) == [(0, "a0"), (1, "b0")]
    late.join()


def test_no_batch_waits_for_an_unavailable_source() -> None:
    inbox: Inbox[str] = Inbox([True, True])
    inbox.set_unavailable(1, True)
    inbox.put(0, "a0")
    assert within(lambda: inbox.take(2, 1000)) == [(0, "a0")]


def test_the_newest_of_a_live_source_wins_and_the_others_are_counted() -> None:
    inbox: Inbox[int] = Inbox([True])
    for number in range(10):
        assert inbox.put(0, number)
    assert inbox.take(4, 0) == [(0, 9)]
    assert inbox.dropped(0) == 9


def test_a_full_queue_makes_its_reader_wait() -> None:
    inbox: Inbox[int] = Inbox([False], capacity=2)
    reader = Thread(target=lambda: [inbox.put(0, number) for number in range(5)])
    reader.start()
    taken: list[int] = []
    while len(taken) < 5:
        assert len(inbox) <= 2
        taken += [number for _, number in within(lambda: inbox.take(1, 0))]
    reader.join()
    assert taken == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("live", [False, True])
def test_no_more_than_the_limit_is_taken(live: bool) -> None:
    inbox: Inbox[int] = Inbox([live], capacity=4, limit=2)
    taken: list[int] = []
    for number in range(4):
        inbox.put(0, number)
        if live:
            taken += [one for _, one in inbox.take(4, 0)]
    taken += [one for _, one in inbox.take(4, 0)]
    assert taken == [0, 1]
    assert not inbox.accepts(0)
    assert inbox.take(4, 0) == []


def test_closing_wakes_everyone() -> None:
    inbox: Inbox[int] = Inbox([False], capacity=1)
    inbox.put(0, 0)
    answers: list[object] = []
    waiting = [Thread(target=lambda: answers.append(inbox.put(0, 1)), daemon=True)]
    empty: Inbox[int] = Inbox([False])
    waiting.append(Thread(target=lambda: answers.append(empty.take(1, 0)), daemon=True))
    for thread in waiting:
        thread.start()
    inbox.close()
    empty.close()
    for thread in waiting:
        thread.join(60)
    assert sorted(map(str, answers)) == ["False", "[]"]
    assert inbox.put(0, 2) is False


def test_a_channel_is_bounded_and_ends() -> None:
    channel: Channel[int] = Channel(2)

    def give() -> None:
        for number in range(5):
            channel.put(number)
        channel.end()

    giver = Thread(target=give)
    giver.start()
    taken = []
    while (item := within(channel.get)) is not None:
        assert len(channel) <= 2
        taken.append(item)
    giver.join()
    assert taken == [0, 1, 2, 3, 4]


def test_a_closed_channel_takes_nothing() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    answers: list[bool] = []
    giver = Thread(target=lambda: answers.append(channel.put(1)), daemon=True)
    giver.start()
    channel.close()
    giver.join(60)
    assert answers == [False]
    assert channel.get() is None
