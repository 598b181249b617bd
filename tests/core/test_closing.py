"""What closes itself is closed however its block ends."""

from __future__ import annotations

import pytest

from sam3_runtime.core.closing import Closing


class Counted(Closing):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_it_is_closed_at_the_end() -> None:
    with Counted() as one:
        assert one.closed == 0
    assert one.closed == 1


def test_it_is_closed_by_an_error_which_goes_on() -> None:
    one = Counted()
    with pytest.raises(KeyError, match="mine"), one:
        raise KeyError("mine")
    assert one.closed == 1
