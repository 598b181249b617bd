"""What follows from the description of a family: names, shapes and profiles."""

from __future__ import annotations

import pytest

from sam3_runtime.families.sam3.spec import SAM3


@pytest.mark.parametrize(
    ("graph", "part"),
    [("decoder_q50", "decoder"), ("vision-encoder_int8", "vision-encoder"), ("text-encoder", "text-encoder")],
)
def test_a_graphs_name_says_its_part(graph: str, part: str) -> None:
    assert SAM3.part_of(graph).name == part


def test_a_foreign_name_is_no_part() -> None:
    with pytest.raises(KeyError, match="decoder_v2"):
        SAM3.part_of("decoder_v2")
