"""VRAM on paper: sums, one block of scratch, and buffers that are counted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.families.sam3.parts import PART_NAMES
from sam3_runtime.records.memory import (
    CUDA_CONTEXT_MIB,
    MIB,
    buffers_of,
    check_fits,
    predict,
    process_mib,
    saving,
    smallest_card,
)
from sam3_runtime.records.records import EngineRecord, Sizes
from tests.engine_records import engine_record

WEIGHTS = {"vision-encoder": 900, "text-encoder": 700, "geometry-encoder": 16, "decoder": 50}
BLOCKS = {"vision-encoder": 500, "text-encoder": 1200, "geometry-encoder": 30, "decoder": 460}


def records(**changes: Any) -> dict[str, EngineRecord]:
    def sizes(part: str) -> Sizes:
        return Sizes(file=1, weights=WEIGHTS[part] * MIB, scratch=7, activation=BLOCKS[part] * MIB)

    return {part: engine_record(part, sizes=sizes(part), **changes) for part in PART_NAMES}


def test_weights_add_up_and_scratch_is_one_block() -> None:
    found = predict(records())
    assert found is not None
    whole, kept = found["with_text"], found["without_text"]
    assert (whole["weights_mib"], whole["scratch_mib"]) == (1666, 1200)
    assert (kept["weights_mib"], kept["scratch_mib"]) == (966, 1200)  # the block stays as large as it was
    assert whole["total_mib"] == pytest.approx(1666 + 1200 + whole["buffers_mib"], abs=0.1)
    assert found["assumed_cuda_context_mib"] == CUDA_CONTEXT_MIB


def test_scratch_counts_where_no_block_is_told() -> None:
    made = {part: record.model_copy(update={"sizes": Sizes(file=1, weights=1, scratch=5 * MIB)}) for part, record in
            records().items()}  # fmt: skip
    found = predict(made)
    assert found is not None
    assert found["with_text"]["scratch_mib"] == 5


def test_without_sizes_nothing_is_predicted() -> None:
    made = records()
    made["decoder"] = engine_record("decoder")
    assert predict(made) is None


def test_parts_that_stay_closed_save_weights_buffers_and_a_smaller_block() -> None:
    made = records()
    kept = {part: made[part] for part in ("vision-encoder", "decoder")}
    buffers = (buffers_of(made.values()) - buffers_of(kept.values())) / MIB
    said = saving(made, kept)
    assert said.endswith(" MiB of GPU memory, as predicted")
    assert float(said.split()[0]) == pytest.approx(700 + 16 + (1200 - 500) + buffers, abs=0.2)
    unknown = {part: engine_record(part, sizes=Sizes(file=2 * MIB)) for part in PART_NAMES}
    assert saving(unknown, kept) == "4.0 MiB of weights"


def test_what_the_vision_encoder_writes_and_the_decoder_reads_is_counted_once() -> None:
    made = records()
    grid, channels, batch = 672 // 14, 64, 8
    area = grid * grid
    features = batch * channels * area * (16 + 4 + 1) * 4 + channels * area * 4
    images = batch * 3 * 672 * 672 * 4
    assert buffers_of([made["vision-encoder"]]) == images + features
    tokens, queries = 60, 50
    prompt = batch * tokens * (channels * 4 + 1)
    answers = batch * queries * (16 * area * 4 + 4 * 4 + 4 + 8) + batch * 4
    assert buffers_of([made["vision-encoder"], made["decoder"]]) == images + features + prompt + answers


def test_features_of_another_type_are_a_buffer_of_their_own() -> None:
    made = records()
    half = tuple(tensor.model_copy(update={"dtype": "float16"}) for tensor in made["decoder"].inputs[:4])
    other = made["decoder"].model_copy(update={"inputs": (*half, *made["decoder"].inputs[4:])})
    alone = buffers_of([made["vision-encoder"], made["decoder"]])
    assert buffers_of([made["vision-encoder"], other]) > alone


def test_which_cards_it_fits_in() -> None:
    found = predict(records())
    assert found is not None
    assert found["with_text"]["fits_gb"] == [6, 8, 12, 16, 24]
    assert smallest_card([8, 12]) == "8 GB"
    assert smallest_card([]) == "more than 24 GB"


def test_what_does_not_fit_what_is_free_says_what_takes_it() -> None:
    made = records()
    found = predict(made)
    assert found is not None
    needed = int(found["with_text"]["total_mib"] * MIB)
    check_fits(Path("engines/b8_q50_r672"), made, needed + MIB, "NVIDIA L4")
    message = (
        r"engines/b8_q50_r672 needs about \d+ MiB of GPU memory \(1666 weights, 1200 scratch, \d+ buffers\), and 2000 "
        r"MiB are free on NVIDIA L4\nHint: close what else runs there .*sam3-runtime info engines lists"
    )
    with pytest.raises(EngineError, match=message):
        check_fits(Path("engines/b8_q50_r672"), made, 2000 * MIB, "NVIDIA L4")
    made["decoder"] = made["decoder"].model_copy(update={"sizes": Sizes(file=1)})
    check_fits(Path("engines/b8_q50_r672"), made, 0, "NVIDIA L4")


def test_a_card_must_have_room_for_the_context_too() -> None:
    made = records()
    base = predict(made)
    assert base is not None
    spare = 6 * 1024 - CUDA_CONTEXT_MIB - base["with_text"]["total_mib"]
    for extra, fits in ((spare - 1, 6), (spare + 1, 8)):
        size = made["vision-encoder"].sizes
        grown = size.model_copy(update={"weights": (size.weights or 0) + int(extra * MIB)})
        found = predict(made | {"vision-encoder": made["vision-encoder"].model_copy(update={"sizes": grown})})
        assert found is not None
        assert found["with_text"]["fits_gb"][0] == fits


def test_the_process_knows_its_own_memory() -> None:
    peak, now = process_mib("VmHWM"), process_mib("VmRSS")
    if peak is None or now is None:
        pytest.skip("this system does not tell")
    assert peak >= now > 0
