"""The workflow with TensorRT-RTX on a machine without a GPU: everything but the judgement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.records.records import EngineRecord, Verdict
from tests.workflow.conftest import HALF, WorkFolder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'sam3-runtime[rtx]'")
pytestmark = pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU: these are about one without")

NAME = "b2_q20_r112"


@pytest.fixture(scope="module")
def rtx(tmp_path_factory: pytest.TempPathFactory, exported_once: WorkFolder) -> WorkFolder:
    folder = exported_once.copy(tmp_path_factory.mktemp("rtx"))
    folder.write(backend="tensorrt-rtx", **HALF)
    run = folder.snakemake("bench_all")
    if run.returncode != 0:
        raise AssertionError(run.stdout)
    return folder


def tool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("sam3-runtime")), *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, check=False)


def test_everything_is_built_and_nothing_judged(rtx: WorkFolder) -> None:
    verdict = Verdict.read(rtx.path / f"engines/{NAME}/verify.json")
    assert verdict.status == "unverified"
    assert "no NVIDIA driver was found" in verdict.reason
    assert verdict.gate
    assert not (rtx.path / f"bench/{NAME}.json").exists()
    record = EngineRecord.read(rtx.path / f"engines/{NAME}/decoder.engine.json")
    assert record.settings == {"gpus": ["8.9", "12.0"]}
    assert record.precision == "fp16"
    assert record.build_peak_mib


def test_the_table_says_what_is_predicted_and_what_was_not_measured(rtx: WorkFolder) -> None:
    text = (rtx.path / "bench/table.md").read_text()
    assert "Not run on any RTX GPU" in text
    assert "compiled for: Ada (8.9) and Blackwell (12.0)" in text
    row = json.loads((rtx.path / "bench/table.json").read_text())["rows"][0]
    assert row["status"] == "unverified"
    assert row["vram_mib"] == pytest.approx(row["weights_mib"] + row["scratch_mib"] + row["buffers_mib"], abs=0.2)
    assert row["card"] == "6 GB"


def test_nothing_is_planned_again(rtx: WorkFolder) -> None:
    assert rtx.planned() == {"all": 1}
    assert rtx.planned("bench_all") == {"bench_all": 1}


def test_other_generations_build_every_engine_again_and_say_why(rtx: WorkFolder) -> None:
    before = (rtx.path / "variants.yaml").read_text()
    try:
        (rtx.path / "variants.yaml").write_text(before + "build: {rtx: {gpus: [ada]}}\n")
        planned = rtx.planned()
        said = rtx.snakemake("--dry-run").stdout
    finally:
        (rtx.path / "variants.yaml").write_text(before)
    assert planned == {"build_engine": 4, "link_engine": 4, "configure_variant": 1, "verify_variant": 1, "all": 1}
    assert "Params have changed" in said


def test_info_predicts_the_memory(rtx: WorkFolder) -> None:
    assert "text encoder released" in tool(rtx.path, "info", f"engines/{NAME}").stdout
    assert "predicted VRAM" in tool(rtx.path, "info", "engines").stdout
    found = json.loads(tool(rtx.path, "info", "--json", f"engines/{NAME}").stdout)
    assert found["status"] == "unverified"
    assert found["memory"]["without_text"]["total_mib"] < found["memory"]["with_text"]["total_mib"]


def test_a_packed_variant_arrives_with_its_reference_and_says_what_is_missing(rtx: WorkFolder, tmp_path: Path) -> None:
    assert tool(rtx.path, "pack", f"engines/{NAME}", str(tmp_path / "out.tar")).returncode == 0
    assert tool(tmp_path, "unpack", "out.tar", ".").returncode == 0
    assert (tmp_path / NAME / "reference.safetensors").is_file()
    verified = tool(tmp_path, "verify", NAME)
    assert verified.returncode == 1
    assert "no NVIDIA driver was found" in verified.stdout
    measured = tool(tmp_path, "bench", NAME)
    assert measured.returncode == 1
    assert "no NVIDIA driver was found" in measured.stderr
    assert "Hint: take it to the machine that runs it" in measured.stderr
    assert not (tmp_path / "bench.json").exists()


def test_inference_ends_with_one_message(rtx: WorkFolder) -> None:
    run = tool(
        rtx.path,
        "infer",
        "--engines",
        f"engines/{NAME}",
        "--images",
        "package:skimage/data/coffee.png",
        "--prompt",
        "cup",
    )
    assert run.returncode == 1
    assert "can build TensorRT-RTX engines but not run them" in run.stderr
    assert "UNVERIFIED" not in run.stderr, "a verdict is held against what the engines run on, and here is nothing"
    assert "Traceback" not in run.stderr
