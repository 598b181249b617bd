from __future__ import annotations

import pytest

from sam3_runtime.core.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "picture", "1 picture"),
        (0, "picture", "0 pictures"),
        (2, "absent phrase", "2 absent phrases"),
        (3, "box", "3 boxes"),
        (2, "class", "2 classes"),
        (2, "query", "2 queries"),
        (2, "day", "2 days"),
        (1.0, "frame", "1 frame"),
        (3.5, "mask", "3.5 masks"),
        (1234567, "byte", "1234567 bytes"),
    ],
)
def test_a_noun_is_as_many_as_its_number(number: float, noun: str, said: str) -> None:
    assert counted(number, noun) == said
