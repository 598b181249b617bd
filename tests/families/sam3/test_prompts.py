from __future__ import annotations

import pytest

from sam3_runtime.families.sam3.prompts import Prompt, PromptError

BOX = (10.0, 20.0, 30.0, 60.0)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_prompt_of_boxes_alone_reads_as_transformers_reads_it() -> None:
    prompt = Prompt(boxes=(BOX,))
    assert prompt.words == prompt.name == "visual"
    assert prompt.labels == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs words or boxes"),
        ({"text": "  "}, "is empty"),
        ({"text": "caf\udce9"}, r"the prompt 'caf\\udce9' is not valid Unicode"),
        ({"boxes": (BOX,) * 28}, "has 28 boxes"),
        ({"boxes": (BOX,), "labels": (1, 1)}, r"1 box and the labels \[1, 1\]"),
        ({"boxes": (BOX,), "labels": (2,)}, r"the labels \[2\]"),
        ({"boxes": ((5, 5, 5, 9),)}, r"the box \[5, 5, 5, 9\] is empty"),
        ({"boxes": ((5, 5, float("nan"), 9),)}, "is empty"),
        ({"boxes": ((5, 5, 9),)}, "is empty"),
        ({"boxes": ((0.1, 0.1, 0.5, 1.1),), "relative": True}, r"\[0.1, 0.1, 0.5, 1.1\] is not within 0 and 1"),
        ({"boxes": ((-0.1, 0.1, 0.5, 1),), "relative": True}, "is not within 0 and 1"),
    ],
)
def test_a_prompt_that_says_nothing_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Prompt(**arguments)  # type: ignore[arg-type]
