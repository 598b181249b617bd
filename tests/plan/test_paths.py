"""Ids of graphs and engines: from a part and a variant, and back."""

from __future__ import annotations

import re

import pytest

from sam3_runtime.families.sam3.parts import PARTS
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.plan.paths import engine_id, graph_id, id_pattern, parse_id
from sam3_runtime.plan.variants import Variant

INT8 = Variant.from_name("b8_q50_r672_int8")


def test_ids_are_what_folders_have_been_called() -> None:
    assert [engine_id(part, INT8) for part in PARTS.values()] == [
        "b8_r672/vision-encoder_int8", "b8/text-encoder", "b8_r672/geometry-encoder", "b8_r672/decoder_q50",
    ]  # fmt: skip
    assert [graph_id(part, INT8, "_fp32") for part in PARTS.values()] == [
        "r672/vision-encoder_fp32", "text-encoder", "r672/geometry-encoder", "r672/decoder_q50",
    ]  # fmt: skip


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_an_id_is_read_back(part: object) -> None:
    engine = engine_id(part, INT8)  # type: ignore[arg-type]
    found = parse_id(engine, SAM3)
    assert (found.part, str(found)) == (part, engine)
    assert found.axes["batch"] == 8
    assert str(found.graph("")) == graph_id(part, INT8)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["encoder", "r672/decoder_50", "b8_r672/decoder_q50_int16", "x8/decoder_q50", ""])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no graph and no engine"):
        parse_id(text, SAM3)


def test_patterns_take_the_ids_and_nothing_else() -> None:
    engines = re.compile(id_pattern(SAM3, PARTS.values(), batch=True))
    graphs = re.compile(id_pattern(SAM3, PARTS.values(), batch=False, endings=("_fp32",)))
    for part in PARTS.values():
        assert engines.fullmatch(engine_id(part, INT8))
        assert not graphs.fullmatch(engine_id(part, INT8))
        assert graphs.fullmatch(graph_id(part, INT8, "_fp32"))
    for wrong in (
        "b0/text-encoder",
        "b8/decoder_q50",
        "b8_r672/decoder",
        "b8_r672/decoder_q50_int8",
        "r672/decoder_q50",
    ):
        assert not engines.fullmatch(wrong)
    assert not graphs.fullmatch("r672/vision-encoder_int8")
