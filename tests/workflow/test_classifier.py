"""The second family through the whole flow: built, judged, measured, packed, and run by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sam3_runtime import load
from sam3_runtime.core.source_files import locate
from sam3_runtime.media.sources import load_image
from sam3_runtime.records.measurements import BenchResult
from sam3_runtime.records.records import EngineRecord, VariantConfig, Verdict
from tests.workflow.conftest import WorkFolder

COFFEE = "package:skimage/data/coffee.png"
SETTINGS = {
    "model": {"family": "classifier", "checkpoint": "test_resnet"},
    "backend": "onnxruntime",
    "defaults": {"batch": 2},
    "variants": [{"resolution": 96, "quantize": ["none", "int8"]}],
    "reference": {"source": [COFFEE, "package:skimage/data/chelsea.png"]},
    "calibration": {"source": [COFFEE], "frames": 1},
    "bench": {"source": [COFFEE], "cameras": [1, 2], "rounds": 2, "windows": 2},
    # Seeded weights, one picture to measure scales on: what 8 bits cost is not what is tested.
    "gate": {"int8": {"logit_cosine": 0.5, "top1": 0, "top5": 0}},
}
VARIANTS = ("b2_r96", "b2_r96_int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    made = WorkFolder(tmp_path_factory.mktemp("classifier"))
    (made.path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    made.write()
    run = made.snakemake("bench_all")
    if run.returncode != 0:
        raise AssertionError(run.stdout)
    return made


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sam3_runtime.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_variant_is_built_judged_and_measured(folder: WorkFolder) -> None:
    for name in VARIANTS:
        directory = folder.path / "engines" / name
        record, config = (
            EngineRecord.read(directory / "model.engine.json"),
            VariantConfig.read(directory / "config.json"),
        )
        assert (record.family, record.part, record.axes) == ("classifier", "model", {"batch": 2, "resolution": 96})
        assert (config.preprocessing.fit, list(config.assets)) == ("crop", ["labels.json"])
        verdict = Verdict.read(directory / "verify.json")
        assert verdict.status == "passed"
        assert {"logit cosine", "top-1 agreement", "top-5 agreement"} <= {check.name for check in verdict.checks}
        bench = BenchResult.read(folder.path / f"bench/{name}.json")
        assert [camera.cameras for camera in bench.cameras] == [1, 2]
        assert [(part.part, part.images) for part in bench.parts] == [("model", 1), ("model", 2)]
    table = (folder.path / "bench/table.md").read_text()
    quantized = EngineRecord.read(folder.path / "engines/b2_r96_int8/model.engine.json")
    assert quantized.precision_got.keys() == {"float32"}, "ONNX Runtime runs convolutions in 8 bits now: drop the note"
    assert "b2_r96_int8 rounds to int8 and **computes in float**" in table
    assert "b2_r96 rounds" not in table
    assert "`top1` is the share" in table
    assert "The weights are random" in table


def test_nothing_is_due_and_another_resolution_exports_once(folder: WorkFolder) -> None:
    assert folder.planned("bench_all") == {"bench_all": 1}
    folder.write(variants=[{"resolution": [96, 128]}])
    wanted = {"compute_reference", "export_graph_with_data", "build_engine", "link_engine"}
    planned = folder.planned("build_all", "reference/r128.safetensors")
    folder.write()
    assert {rule: planned.get(rule) for rule in wanted} == dict.fromkeys(wanted, 1)
    assert folder.planned("--force", "engines/store/b2_r96/model_int8.engine") == {"build_engine": 1}


def test_the_runtime_and_the_command_say_the_same(folder: WorkFolder, tmp_path: Path) -> None:
    directory = folder.path / "engines/b2_r96"
    with load(directory) as model:
        best = model.classify([load_image(locate(COFFEE))])[0]
    run = tool("infer", "--engines", str(directory), "--images", COFFEE, "--output", str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr
    line = json.loads((tmp_path / "out/images.jsonl").read_text())
    assert line["image"] == "coffee.png"
    assert [one["class"] for one in line["classes"]] == list(best.classes)
    assert [one["name"] for one in line["classes"]] == list(best.names)
    assert len(best.classes) == 5
    assert all(name in run.stderr for name in best.names)


def test_every_other_command_works(folder: WorkFolder, tmp_path: Path) -> None:
    directory = folder.path / "engines/b2_r96_int8"
    assert tool("info", str(directory)).returncode == 0
    assert "b2_r96_int8" in tool("info", str(folder.path / "engines")).stdout
    assert tool("pack", str(directory), str(tmp_path / "one.tar")).returncode == 0
    assert tool("unpack", str(tmp_path / "one.tar"), str(tmp_path)).returncode == 0
    assert tool("verify", str(tmp_path / "b2_r96_int8")).returncode == 0
    assert (tmp_path / "b2_r96_int8/labels.json").is_file()
    assert "SAM" not in (tmp_path / "b2_r96_int8/NOTICE").read_text()
    assert "no unused files" in tool("prune", "-d", str(folder.path)).stdout
    assert tool("check", "-d", str(folder.path)).returncode == 0
    assert "2 variants, backend onnxruntime" in tool("doctor", "-d", str(folder.path)).stdout
    shared = tool("bench", str(directory), "--output", str(tmp_path / "shared.json"), "--cameras", "1")
    assert shared.returncode == 0, shared.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("infer", "--images", COFFEE, "--prompt", "cup"), "a classifier does not support --prompt"),
        (("infer", "--images", COFFEE, "--box", "1,2,3,4"), "a classifier does not support --box"),
        (("stream", "--source", COFFEE, "--bank", "none.npz"), "is a classifier, which detects nothing"),
    ],
)
def test_what_means_nothing_to_it_is_refused(folder: WorkFolder, arguments: tuple[str, ...], said: str) -> None:
    run = tool(*arguments, "--engines", str(folder.path / "engines/b2_r96"))
    assert run.returncode == 1
    assert said in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"family": "clasifier"}}, "variants.yaml:1"),
        ({"variants": [{"resolution": 96, "queries": 50}]}, "queries"),
        ({"variants": [{"resolution": 16}]}, "resolution 16 is less than 32"),
        ({"gate": {"float": {"mask_iou": 0.5}}}, "mask_iou"),
        ({"precision": {"decoder": "fp32"}}, "decoder"),
    ],
)
def test_what_is_not_its_own_is_refused_with_the_place(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    made = WorkFolder(tmp_path)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    made.write(**changes)
    run = made.snakemake("--dry-run")
    assert run.returncode == 1
    assert "Error: variants.yaml" in run.stdout
    assert said in run.stdout


def test_a_timm_model_that_there_is_not_names_its_neighbours(tmp_path: Path) -> None:
    made = WorkFolder(tmp_path)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    made.write(model={"family": "classifier", "checkpoint": "resnet5O"})
    run = made.snakemake("checkpoint.lock")
    assert run.returncode == 1
    assert "resnet50" in (tmp_path / "logs/lock_checkpoint.log").read_text()


def test_a_folder_holds_one_family(folder: WorkFolder) -> None:
    folder.write(
        model={"family": "sam3", "checkpoint": "test_resnet"},
        variants=[{"resolution": 224}],
        gate={},
        bench={},
        reference={},
    )
    run = folder.snakemake("--dry-run")
    folder.write()
    assert "this work folder was built for a classifier, and variants.yaml is for a SAM3" in run.stdout
