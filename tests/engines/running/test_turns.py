"""One thread at a time, and none that waits for itself."""

from __future__ import annotations

import threading

import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running.turns import Turns
from tests.streaming import within


def test_turns_are_numbered_so_that_others_in_between_show() -> None:
    turns, seen = Turns(concurrent=False), []
    for _ in range(2):
        with turns.take() as number:
            seen.append(number)
    assert seen == [1, 2]


def test_others_wait_for_their_turn() -> None:
    turns, order = Turns(concurrent=False), []

    def other() -> None:
        with turns.take() as number:
            order.append(f"other {number}")

    thread = threading.Thread(target=other)
    with turns.take() as number:
        thread.start()
        thread.join(0.05)
        order.append(f"first {number}")
    within(thread.join)
    assert order == ["first 1", "other 2"]


def test_whoever_has_the_turn_cannot_take_another() -> None:
    turns = Turns(concurrent=False)
    with turns.take(), pytest.raises(EngineError, match="called from its own `stages` or `take`"), turns.take():
        pass
    with turns.take() as number:
        assert number == 2


def test_an_error_ends_the_turn() -> None:
    turns = Turns(concurrent=False)
    with pytest.raises(KeyError), turns.take():
        raise KeyError
    with turns.take() as number:
        assert number == 2


def test_where_engines_are_concurrent_nobody_waits() -> None:
    turns = Turns(concurrent=True)
    with turns.take() as one, turns.take() as other:
        assert (one, other) == (0, 0)
