"""The page of accuracy: every measured variant is a row, and a rejected one says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import accuracy
from sam3_runtime.core.errors import RecordError
from sam3_runtime.families.sam3.evaluate import Evaluation, evaluate
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.plan.settings import variants_file
from tests.concepts import coco_file, write
from tests.fake_variant import write_fake_variant


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    write_fake_variant(tmp_path / "engines/b4_q20_r112")
    return evaluate(tmp_path / "engines/b4_q20_r112", write(tmp_path / "data", coco_file()))


def row(evaluation: Evaluation, name: str, **changes: Any) -> dict[str, Any]:
    known = {"precision": "fp32", "algorithm": None, "status": "passed", "ms": 12.34, "stable": True, "prompts": 4}
    return {"variant": name, **known, "version": "1.0", "evaluation": evaluation.model_dump(mode="json"), **changes}


def test_every_variant_is_a_row(evaluation: Evaluation, tmp_path: Path) -> None:
    rows = [
        row(evaluation, "b4_q200_r336"),
        row(evaluation, "b4_q20_r336", stable=False),
        row(evaluation, "b4_q200_r336_int8", precision="fp32+int8", algorithm="minmax", status="rejected"),
    ]
    found = {"device": "a CPU", "rows": rows, "boxes": evaluation.model_dump(mode="json")}
    (tmp_path / "accuracy-cpu.json").write_text(json.dumps(found))
    text = accuracy.document([tmp_path / "accuracy-cpu.json"])
    lines = [line for line in text.splitlines() if line.startswith("| b4")]
    assert [line.split("|")[1].strip() for line in lines] == ["b4_q200_r336", "b4_q20_r336", "b4_q200_r336_int8"]
    assert "12.3 (unstable)" in lines[1]
    assert "fp32+int8 (minmax)" in lines[2]
    assert lines[2].rstrip("| ").endswith("rejected")
    assert "100.0 % / 100.0 %" in lines[0]
    assert f"{evaluation.accuracy.box.ap:.3f}" in lines[0]
    assert "## fake 1.0 on a CPU" in text
    assert str(tmp_path) not in text


def test_what_is_built_is_one_change_at_a_time(tmp_path: Path) -> None:
    base = accuracy.BASE
    for one in [*accuracy.FLOATS[1:], accuracy.INT8]:
        assert (
            sum(
                mine != its
                for mine, its in zip((*one.numbers, one.quantize), (*base.numbers, base.quantize), strict=True)
            )
            == 1
        )
    settings = accuracy._settings("onnxruntime", tmp_path, tmp_path / "a.json", "minmax", [base, accuracy.INT8])
    checked = variants_file(SAM3).model_validate(yaml.safe_load(yaml.safe_dump(settings)))
    assert checked.calibration.algorithm == "minmax"
    assert checked.accuracy is not None


def test_what_was_not_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="b4_q200_r336 was not measured"):
        accuracy._row(tmp_path, accuracy.BASE, "entropy")


def test_folders_are_prepared_and_nothing_is_run_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "PROJECT", tmp_path)
    monkeypatch.setattr(accuracy, "WORK", tmp_path / "work")
    monkeypatch.setattr(accuracy, "_scenes", lambda count: write(tmp_path / f"scenes-{count}", coco_file()))
    measured = {}
    for backend in ("onnxruntime", "tensorrt"):
        prepared = accuracy.prepare(backend, tmp_path / "checkpoint", 5)
        assert [path.name for path in (tmp_path / "work" / backend / "entropy").iterdir()] == ["variants.yaml"]
        for algorithm, folder, variants in prepared:
            checked = variants_file(SAM3).model_validate(yaml.safe_load((folder / "variants.yaml").read_text()))
            assert checked.calibration.algorithm == algorithm
            assert len(checked.variants) == len(variants)
        measured[backend] = [len(variants) for _, _, variants in prepared]
    assert measured == {"onnxruntime": [7, 1, 1], "tensorrt": [2, 1, 1]}
