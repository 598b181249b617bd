"""Messages for people: one text with its hint, which every terminal and file can hold."""

from __future__ import annotations

import pytest

from sam3_runtime.core import errors
from sam3_runtime.core.errors import CannotRunHere, EngineError, Sam3Error, printable


def test_the_hint_follows_the_message() -> None:
    error = Sam3Error("the disk is full", "free some space")
    assert str(error) == "the disk is full\nHint: free some space"
    assert (error.message, error.hint) == ("the disk is full", "free some space")
    assert str(Sam3Error("the disk is full")) == "the disk is full"


def test_a_name_that_is_no_utf8_can_be_printed() -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert printable(f"{name} and 汽车") == "caf%E9.png and 汽车"
    error = Sam3Error(f"{name} is missing", f"rename {name}")
    assert str(error).encode() == b"caf%E9.png is missing\nHint: rename caf%E9.png"


def test_every_error_of_the_project_is_caught_by_one_name() -> None:
    found = [one for one in vars(errors).values() if isinstance(one, type) and one.__module__ == errors.__name__]
    assert len(found) > 10
    assert [one for one in found if not issubclass(one, Sam3Error)] == []
    with pytest.raises(EngineError, match="another GPU"):
        raise CannotRunHere("it is for another GPU")
