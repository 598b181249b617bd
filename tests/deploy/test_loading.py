"""Loading a variant: what belongs together is opened, anything else is one message before an engine is opened."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

import sam3_runtime
from sam3_runtime.core.errors import EngineError, RecordError
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, Verdict
from tests.engine_records import changed
from tests.fake_variant import write_fake_variant


def test_load_says_what_it_loaded(fake_variant: Path) -> None:
    with sam3_runtime.load(str(fake_variant), threads=1) as pipeline:
        assert (pipeline.status, pipeline.batch) == ("passed", 4)
        assert pipeline.config.variant == "b4_q20_r112"
        assert set(pipeline.records) == {"vision-encoder", "text-encoder", "geometry-encoder", "decoder"}
        engines = list(pipeline.engines.values())
    assert all(isinstance(engine, FakeEngine) and engine.closed for engine in engines)


def test_no_folder_and_no_variant(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not a folder"):
        load(tmp_path / "engines/none")
    with pytest.raises(RecordError, match=r"config\.json is missing"):
        load(tmp_path)


def test_an_edited_config_is_noticed(fake_variant: Path) -> None:
    path = fake_variant / "config.json"
    path.write_text(path.read_text().replace('"queries": 20', '"queries": 30'))
    with pytest.raises(RecordError, match="was edited"):
        load(fake_variant)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_digest": "1" * 64}, "its checkpoint_digest is 1111"),
        ({"resolution": 224}, "its resolution is 224, not 112"),
        ({"queries": 50}, "its queries is 50, not 20"),
        ({"batch": 8}, "its batch is 8, not 4"),
        ({"backend": "onnxruntime"}, "its backend is onnxruntime, not fake"),
    ],
)
def test_engines_that_do_not_belong_together_are_refused(
    fake_variant: Path, change: dict[str, object], message: str
) -> None:
    path = fake_variant / "decoder.engine.json"
    changed(EngineRecord.read(path), **change).write(path)
    with pytest.raises(RecordError, match=message):
        load(fake_variant)


def test_another_variants_engine_with_its_record_is_refused(fake_variant: Path) -> None:
    other = fake_variant.with_name("b4_q20_r224")
    write_fake_variant(other, Variant((4, 20, 224)))
    for suffix in ("engine", "engine.json"):
        shutil.copyfile(other / f"decoder.{suffix}", fake_variant / f"decoder.{suffix}")
    with pytest.raises(RecordError, match="its resolution is 224, not 112"):
        load(fake_variant)


def test_another_tokenizer_is_refused(fake_variant: Path) -> None:
    path = fake_variant / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(RecordError, match="is not the tokenizer"):
        load(fake_variant)
    path.unlink()
    with pytest.raises(RecordError, match="is missing"):
        load(fake_variant)


def test_a_damaged_engine_is_told_before_any_is_opened(fake_variant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(FakeEngine, "__init__", lambda engine, *_: opened.append(engine))
    (fake_variant / "decoder.engine").write_text("short")
    with pytest.raises(EngineError, match="cut off"):
        load(fake_variant)
    assert opened == []


def test_an_engine_that_does_not_open_closes_those_before(fake_variant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    made = FakeEngine.__init__

    def refuse(engine: FakeEngine, record: EngineRecord) -> None:
        if record.part == "decoder":
            raise EngineError("refused")
        made(engine, record)

    monkeypatch.setattr(FakeEngine, "__init__", refuse)
    monkeypatch.setattr(FakeEngine, "close", lambda engine: closed.append(engine.record.part))
    with pytest.raises(EngineError, match="refused"):
        load(fake_variant)
    assert closed == ["vision-encoder", "text-encoder", "geometry-encoder"]


def test_a_verdict_is_told_and_ignored_when_it_is_about_other_engines(
    fake_variant: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = fake_variant / "verify.json"
    verdict = Verdict.read(path)
    for change, status in (
        ({"status": "rejected", "reason": "mask_iou 0.5"}, "rejected"),
        ({"engines": verdict.engines | {"decoder": "0" * 64}}, "unverified"),
    ):
        verdict.model_copy(update=change).write(path)
        caplog.clear()
        with caplog.at_level(logging.WARNING), load(fake_variant) as pipeline:
            assert pipeline.status == status
        assert f"b4_q20_r112 is {status.upper()}: {pipeline.reason}" in caplog.text
    path.unlink()
    with load(fake_variant) as pipeline:
        assert pipeline.status == "unverified"


@pytest.mark.parametrize("parts", [(), ("decodr", "decoder")])
def test_parts_that_there_are_not(fake_variant: Path, parts: tuple[Any, ...]) -> None:
    with pytest.raises(
        EngineError, match=r"(decodr|nothing) is not a part of a variant\nHint: its parts are vision-enc"
    ):
        load(fake_variant, parts=parts)
