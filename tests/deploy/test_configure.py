"""A variant's engines and its configuration belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.deploy.configure import check_agreement
from sam3_runtime.families.sam3.parts import PART_NAMES
from tests.engine_records import changed, engine_record
from tests.records.test_records import config


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("decoder", {"queries": 200}),
        ("decoder", {"resolution": 560}),
        ("vision-encoder", {"quantize": "int8"}),
        ("text-encoder", {"batch": 4}),
        ("text-encoder", {"checkpoint_digest": "f" * 64}),
        ("geometry-encoder", {"backend": "fake"}),
    ],
)
def test_engines_that_do_not_belong_together_are_told(part: str, changes: dict[str, Any]) -> None:
    records = {name: engine_record(name) for name in PART_NAMES}
    check_agreement(Path("engines/b8_q50_r672"), config(), records)
    records[part] = changed(records[part], **changes)
    with pytest.raises(RecordError, match=rf"{part}.engine is not of b8_q50_r672: its {next(iter(changes))}"):
        check_agreement(Path("engines/b8_q50_r672"), config(), records)


def test_an_engine_under_another_parts_name_is_told() -> None:
    records = {name: engine_record(name) for name in PART_NAMES}
    records["decoder"] = engine_record("geometry-encoder")
    with pytest.raises(RecordError, match="its part is geometry-encoder, not decoder"):
        check_agreement(Path("x"), config(), records)
