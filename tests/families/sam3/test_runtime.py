"""The interface of SAM3 to what loads, verifies and measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.deploy.configure import read_config
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.families import runtime as runtime_of
from sam3_runtime.families.sam3 import runtime
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.plan.variants import Variant
from tests.fake_variant import fake_record


def engine(part: PartName) -> FakeEngine:
    return FakeEngine(fake_record(part, Variant((4, 20, 112))))


def test_it_is_the_default_family() -> None:
    assert runtime_of(None) is runtime_of("sam3") is runtime


def test_a_model_without_a_text_encoder_reads_no_tokenizer(fake_variant: Path) -> None:
    config = read_config(fake_variant)
    (fake_variant / "tokenizer.json").unlink()
    options = {"directory": fake_variant, "status": "passed", "reason": "it does"}
    parts = {"vision-encoder": engine("vision-encoder"), "decoder": engine("decoder")}
    model = runtime.open_model(config, dict(parts), HostDevice(), **options)
    assert (model.status, model.reason, set(model.engines)) == ("passed", "it does", set(parts))
    with pytest.raises(RecordError, match=r"tokenizer\.json is missing"):
        runtime.open_model(config, {"text-encoder": engine("text-encoder")}, HostDevice(), **options)


def test_a_reference_that_is_missing_is_one_message(fake_variant: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is missing"):
        runtime.read_reference(tmp_path / "r112.safetensors", read_config(fake_variant))
