"""Files that differ from their records are found, with what is wrong; those that follow from others are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sam3_runtime.core.files import link_relatively, sha256_of
from sam3_runtime.jobs.damage import Inspection, check, remove_dangling_links
from sam3_runtime.plan.paths import engine_id
from sam3_runtime.plan.planning import Plan, make_plan
from sam3_runtime.records.records import EngineRecord, Sizes, VariantConfig, Verdict
from tests.engine_records import engine_record
from tests.records.test_records import config

NAME = "b8_q50_r672"
STORED = "engines/store/b8_r672/decoder_q50.engine"
LINK, CONFIG, VERDICT = f"engines/{NAME}/decoder.engine", f"engines/{NAME}/config.json", f"engines/{NAME}/verify.json"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "variants.yaml").write_text("backend: onnxruntime\nvariants: [{resolution: 672}]\n")
    return make_plan(tmp_path / "variants.yaml", tmp_path)


@pytest.fixture
def work(tmp_path: Path, plan: Plan) -> Path:
    """A work folder whose files agree."""
    digests = {}
    for part in plan.family.parts.values():
        stored = tmp_path / f"engines/store/{engine_id(part, plan.variant(NAME))}.engine"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(f"engine of the {part.name}".encode())
        digests[part.name] = sha256_of(stored)
        record = engine_record(part.name, sha256=digests[part.name], sizes=Sizes(file=stored.stat().st_size))
        record.write(stored.with_name(f"{stored.name}.json"))
        for ending in ("", ".json"):
            link = tmp_path / f"engines/{NAME}/{part.name}.engine{ending}"
            link_relatively(link, stored.with_name(f"{stored.name}{ending}"))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/tokenizer.json").write_text("{}")
    link_relatively(tmp_path / f"engines/{NAME}/tokenizer.json", tmp_path / "onnx/tokenizer.json")
    tokens = sha256_of(tmp_path / "onnx/tokenizer.json")
    config(tokenizer_sha256=tokens).write(tmp_path / CONFIG)
    Verdict(
        variant=NAME, status="passed", reason="", engines=digests, reference_sha256="", gate={}, device="cpu"
    ).write(tmp_path / VERDICT)
    return tmp_path


def look(work: Path, plan: Plan, file: str) -> str | None:
    return Inspection(work, plan).look(file)


def test_nothing_is_wrong_with_what_agrees(work: Path, plan: Plan) -> None:
    assert check(work, plan) == []


def test_a_missing_file_is_left_to_snakemake(work: Path, plan: Plan) -> None:
    for file in (VERDICT, CONFIG, LINK, STORED):
        (work / file).unlink()
        assert look(work, plan, file) is None


def test_an_engine_that_was_cut_off(work: Path, plan: Plan) -> None:
    (work / STORED).write_bytes(b"engine")
    assert look(work, plan, STORED) == "is cut off: it has 6 bytes instead of 21"
    # What is made of it will be made again with it.
    assert look(work, plan, LINK) is look(work, plan, CONFIG) is look(work, plan, VERDICT) is None


def test_other_bytes_are_found_by_digest_and_marked(work: Path, plan: Plan) -> None:
    (work / STORED).write_bytes(b"other of the decoder".ljust(21))
    os.utime(work / STORED, (1, 1))
    assert look(work, plan, STORED) is None, "its record has no time to compare"
    (said,) = check(work, plan)
    assert said == f"{STORED} is not the engine that its record describes: their SHA-256 differ"
    assert (work / STORED).stat().st_mtime > 1


def test_a_record_that_was_edited(work: Path, plan: Plan) -> None:
    path = work / f"{STORED}.json"
    path.write_text(path.read_text().replace('"build_seconds": 1.5', '"build_seconds": 0.5'))
    assert str(look(work, plan, STORED)).startswith("has a record that was edited")


def test_a_link_that_leads_elsewhere(work: Path, plan: Plan) -> None:
    (work / LINK).unlink()
    (work / LINK).write_bytes(b"mine")
    assert look(work, plan, LINK) == f"is not {STORED}"


def test_results_of_other_engines_or_variants(work: Path, plan: Plan) -> None:
    verdict = Verdict.read(work / VERDICT)
    changes = {
        "is about other engines": {"engines": verdict.engines | {"decoder": "0" * 64}},
        "is of b4_q50_r672": {"variant": "b4_q50_r672"},
        "reports a failure, which may have passed: full memory, a missing library": {"status": "failed"},
    }
    for said, change in changes.items():
        verdict.model_copy(update=change).write(work / VERDICT)
        assert look(work, plan, VERDICT) == said


def test_a_configuration_that_does_not_fit_its_engines(work: Path, plan: Plan) -> None:
    found = VariantConfig.read(work / CONFIG)
    found.model_copy(update={"checkpoint_digest": "7" * 64}).sealed().write(work / CONFIG)
    assert str(look(work, plan, CONFIG)).startswith("does not fit its engines: ")
    assert EngineRecord.read(work / f"{STORED}.json").checkpoint_digest == "2" * 64


def test_another_tokenizer_than_the_configurations(work: Path, plan: Plan) -> None:
    (work / "onnx/tokenizer.json").write_text("{ }")
    for file in ("onnx/tokenizer.json", f"engines/{NAME}/tokenizer.json"):
        assert look(work, plan, file) == f"is not the tokenizer that {CONFIG} names"


def test_links_to_what_is_gone_are_told_and_removed(work: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    (work / STORED).rename(work / "cached.engine")
    (work / STORED).symlink_to(work / "cached.engine")
    (work / "cached.engine").unlink()
    assert f"{STORED} points to a file that is gone" in check(work, plan)
    remove_dangling_links(work)
    assert not (work / STORED).is_symlink()
    assert not (work / LINK).is_symlink()
    assert capsys.readouterr().err == f"{STORED} led to {work / 'cached.engine'}, which is gone\n"
    assert (work / f"engines/{NAME}/text-encoder.engine").exists()
