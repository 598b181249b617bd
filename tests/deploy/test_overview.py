"""What is told of a variant and of a folder of them, from their records alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.deploy.configure import read_records
from sam3_runtime.deploy.overview import describe, overview, status_of
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, Verdict
from tests.fake_variant import write_fake_variant


@pytest.fixture
def records(fake_variant: Path) -> dict[str, EngineRecord]:
    return read_records(fake_variant)


def test_a_verdict_holds_for_its_engines_and_its_device(fake_variant: Path, records: dict[str, EngineRecord]) -> None:
    assert status_of(fake_variant, records) == ("passed", "fake engines agree with themselves")
    status, reason = status_of(fake_variant, records, device="NVIDIA H200")
    assert status == "unverified"
    assert "not on NVIDIA H200: run sam3-runtime verify" in reason
    others = {**records, "decoder": records["text-encoder"]}
    assert status_of(fake_variant, others) == ("unverified", "verify.json is about other engines than those here")


def test_what_no_verdict_says_is_unverified(fake_variant: Path, records: dict[str, EngineRecord]) -> None:
    path = fake_variant / "verify.json"
    Verdict.read(path).model_copy(update={"status": "unverified", "reason": "no RTX GPU"}).write(path)
    assert status_of(fake_variant, records)[1].startswith("no RTX GPU; on an RTX GPU: sam3-runtime verify")
    path.write_text("{")
    assert status_of(fake_variant, records)[1].startswith(f"{path} is damaged")
    path.unlink()
    assert status_of(fake_variant, records) == ("unverified", f"{path} is missing")


def test_a_damaged_engine_has_no_description(fake_variant: Path) -> None:
    assert describe(fake_variant)["variant"] == describe(fake_variant)["folder"] == "b4_q20_r112"
    (fake_variant / "decoder.engine").write_text("short")
    with pytest.raises(RecordError, match="cut off"):
        describe(fake_variant)


def test_engines_of_the_same_content_are_stored_once(fake_variant: Path) -> None:
    write_fake_variant(fake_variant.with_name("b4_q20_r224"), Variant((4, 20, 224)))
    (fake_variant.with_name("b4_q20_r56")).mkdir()
    (fake_variant.with_name("b4_q20_r56") / "config.json").write_text("{}")
    found = overview(fake_variant.parent)
    assert [(one["variant"], one["status"]) for one in found["variants"]] == [
        ("b4_q20_r112", "passed"), ("b4_q20_r224", "passed"), ("b4_q20_r56", "damaged"),
    ]  # fmt: skip
    assert found["distinct_engines"] == 8


def test_a_folder_without_variants(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"contains no variant with a config\.json\nHint: build one: snakemake"):
        overview(tmp_path)
