"""Room for results that come one after another."""

from __future__ import annotations

import numpy as np

from sam3_runtime.backends.host_room import SharedRoom


def test_what_is_begun_together_lies_in_one_block_and_apart() -> None:
    room = SharedRoom()
    first, second = room.reserve(100), room.reserve(7)
    one, other = first(), second()
    assert (len(one), len(other)) == (100, 7)
    assert one.base is other.base
    assert not np.shares_memory(one, other)
    assert other.__array_interface__["data"][0] % 8 == 0
    assert first() is one, "asked again it is the same place"


def test_what_is_begun_later_has_a_block_of_its_own() -> None:
    room = SharedRoom()
    one = room.reserve(8)()
    later, empty = room.reserve(8), room.reserve(0)
    assert later().base is not one.base
    assert len(empty()) == 0
