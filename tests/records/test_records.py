"""Records are read with one message, and an edit of a configuration is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import digest_of
from sam3_runtime.records.records import Check, EngineRecord, VariantConfig, Verdict
from tests.engine_records import DIMS, engine_record


def config(**changes: Any) -> VariantConfig:
    fields: dict[str, Any] = {
        "variant": "b8_q50_r672",
        "batch": 8,
        "queries": 50,
        "resolution": 672,
        "quantize": None,
        "backend": "onnxruntime",
        "dims": DIMS.to_dict(),
        "checkpoint": "facebook/sam3",
        "revision": "main",
        "commit": "0" * 40,
        "checkpoint_digest": "2" * 64,
        "tokenizer_sha256": "4" * 64,
        "notice": "The weights are under a licence of their own.",
    }
    return VariantConfig(**fields | changes).sealed()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = engine_record("decoder")
    record.write(tmp_path / "decoder.engine.json")
    assert EngineRecord.read(tmp_path / "decoder.engine.json") == record.sealed()


def test_an_edited_record_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "decoder.engine.json"
    engine_record("decoder").write(path)
    path.write_text(path.read_text().replace('"build_seconds": 1.5', '"build_seconds": 0.5'))
    with pytest.raises(RecordError, match="was edited"):
        EngineRecord.read(path)


def test_an_edited_verdict_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "verify.json"
    fields = {"engines": {}, "reference_sha256": "", "gate": {}, "device": "cpu"}
    Verdict(variant="b8_q50_r672", status="rejected", reason="", **fields).write(path)  # type: ignore[arg-type]
    path.write_text(path.read_text().replace("rejected", "passed"))
    with pytest.raises(RecordError, match="was edited"):
        Verdict.read(path)


def test_a_verdict_from_before_detections_were_counted_is_whole(tmp_path: Path) -> None:
    """As it was written then: sealed over the fields that there were."""
    path = tmp_path / "verify.json"
    fields = {"engines": {}, "reference_sha256": "", "gate": {}, "device": "cpu", "detections": 7}
    Verdict(variant="b8_q50_r672", status="passed", reason="", **fields).write(path)  # type: ignore[arg-type]
    older = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("found", "by_prompt")}
    sealed = {key: value for key, value in older.items() if key not in ("digest", "accuracy", "accuracy_sha256")}
    path.write_text(json.dumps(older | {"digest": digest_of(sealed)}))
    found = Verdict.read(path)
    assert (found.detections, found.found, found.by_prompt) == (7, None, None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"part": "decoder"}', '{"part": 1, "more": 2}'])
def test_a_damaged_record_is_one_message(tmp_path: Path, content: str) -> None:
    path = tmp_path / "decoder.engine.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"(?s)decoder.engine.json is damaged.*run snakemake"):
        EngineRecord.read(path)


def test_a_missing_record_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="run snakemake"):
        EngineRecord.read(tmp_path / "decoder.engine.json")


def test_an_edited_configuration_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config().write(path)
    assert VariantConfig.read(path) == config()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"queries": 200}))
    with pytest.raises(RecordError, match="was edited"):
        VariantConfig.read(path)


@pytest.mark.parametrize("sense", ["at least", "at most"])
def test_a_nan_passes_no_check(sense: Any) -> None:
    assert not Check(name="cosine", value=float("nan"), limit=0.9, sense=sense).passed
    assert Check(name="cosine", value=0.9, limit=0.9, sense=sense).passed


def test_a_verdict_with_a_nan_can_be_read_again(tmp_path: Path) -> None:
    """A level of zeros has no cosine with anything: its variant is rejected, and the table must be able to say so."""
    check = Check(name="fpn_feat_2 cosine", value=float("nan"), limit=0.9, sense="at least")
    fields: dict[str, Any] = {"reason": "zeros", "engines": {}, "reference_sha256": "", "gate": {}, "device": "cpu"}
    Verdict(variant="b8_q50_r672", status="rejected", checks=(check,), **fields).write(tmp_path / "verify.json")
    json.loads((tmp_path / "verify.json").read_text(), parse_constant=pytest.fail)
    found = Verdict.read(tmp_path / "verify.json")
    assert (found.status, found.checks[0].passed) == ("rejected", False)
