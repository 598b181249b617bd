"""Dry runs: this command, or this edit, plans exactly these jobs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sam3_runtime.core.source_files import locate
from sam3_runtime.families.sam3.parts import PART_NAMES
from sam3_runtime.plan.paths import chain
from sam3_runtime.plan.planning import make_plan
from sam3_runtime.records.records import Toolchain
from tests.workflow.conftest import PROJECT, SETTINGS, WorkFolder

EXPORTS = {"export_graph": 2, "export_graph_with_data": 2}
ONE_VARIANT = {"link_engine": 4, "configure_variant": 1, "verify_variant": 1, "all": 1}


def test_one_engine_by_name_is_one_export_and_one_build(fresh: WorkFolder) -> None:
    planned = fresh.planned("engines/b2_q50_r224/decoder.engine")
    assert planned == {"lock_checkpoint": 1, "export_graph": 1, "build_engine": 1, "link_engine": 1}


def test_everything_for_one_variant(fresh: WorkFolder) -> None:
    first = {"lock_checkpoint": 1, "copy_asset": 1, "compute_reference": 1}
    assert fresh.planned() == {**first, **EXPORTS, "build_engine": 4, **ONE_VARIANT}


def test_what_is_built_is_not_built_again(built: WorkFolder) -> None:
    assert built.planned() == {"all": 1}
    assert built.planned("bench_all") == {"bench_all": 1}
    assert built.planned("build_all") == {}


def test_baselines_are_one_a_resolution_and_need_no_engine(fresh: WorkFolder) -> None:
    fresh.write(variants=[{"resolution": [224, 182], "queries": [50, 200]}])
    assert fresh.planned("baselines_all") == {"lock_checkpoint": 1, "measure_baseline": 2, "baselines_all": 1}


def test_a_resolution_more_is_three_exports_one_reference_and_three_builds(built: WorkFolder) -> None:
    built.write(variants=[{"resolution": [224, 182]}])
    assert built.planned() == {
        "export_graph": 2,
        "export_graph_with_data": 1,
        "build_engine": 3,
        "compute_reference": 1,
        **ONE_VARIANT,
    }


def test_a_data_set_is_one_reference_a_resolution_and_a_measurement_a_variant(fresh: WorkFolder) -> None:
    (fresh.path / "annotations.json").write_text("{}")  # read by jobs, not by plans
    variants = [{"resolution": [224, 182], "queries": [50, 200]}]
    fresh.write(variants=variants, accuracy={"annotations": "annotations.json"})
    planned = fresh.planned("verify_all", "accuracy_all")
    assert (planned["compute_reference"], planned["compute_accuracy"]) == (2, 2)
    assert (planned["verify_variant"], planned["evaluate_variant"]) == (4, 4)
    assert "compute_accuracy" not in fresh.planned("build_all")


def test_more_queries_share_three_engines(built: WorkFolder) -> None:
    built.write(variants=[{"queries": [50, 200], "resolution": 224}])
    assert built.planned() == {"export_graph": 1, "build_engine": 1, **ONE_VARIANT}


def test_int8_builds_one_engine_from_the_same_graph(built: WorkFolder) -> None:
    built.write(variants=[{"resolution": 224, "quantize": ["none", "int8"]}])
    planned = built.planned()
    assert planned == {"measure_scales": 1, "quantize_graph": 1, "build_engine": 1, **ONE_VARIANT}


GEOMETRY = "onnx/r224/geometry-encoder.onnx"
BOTH = [{"resolution": 224, "quantize": ["none", "int8"]}]
VISION = "engines/store/b2_r224/vision-encoder_int8.engine"


def on_tensorrt(folder: WorkFolder, version: str) -> None:
    """Let the folder have been built by that TensorRT on another machine: this one only plans."""
    gpu = {"gpu": "NVIDIA H200", "compute_capability": "9.0"}
    Toolchain(backend="tensorrt", version=version, **gpu).write(folder.path / "toolchain.json")


def test_int8_for_tensorrt_8_starts_from_a_float32_encoder_of_its_own(fresh: WorkFolder) -> None:
    on_tensorrt(fresh, "8.6.1")
    fresh.write(backend="tensorrt", variants=BOTH)
    planned = fresh.planned(VISION)
    chain = ("export_graph_with_data", "measure_scales", "quantize_graph", "build_engine")
    assert planned == {"lock_checkpoint": 1, **dict.fromkeys(chain, 1)}
    assert (
        fresh.planned("build_all")["export_graph_with_data"] == 3
    )  # the text encoder, and a float16 one without 8 bits
    said = fresh.snakemake("--dry-run", "--printshellcmds", VISION).stdout
    assert "onnx/r224/vision-encoder_int8.onnx, onnx/r224/vision-encoder_fp32.onnx.data" in said


def test_int8_for_tensorrt_10_starts_from_the_encoder_that_is_there(fresh: WorkFolder) -> None:
    on_tensorrt(fresh, "10.9.0")
    fresh.write(backend="tensorrt", variants=BOTH)
    chain = ("export_graph_with_data", "measure_scales", "quantize_graph", "build_engine")
    assert fresh.planned(VISION) == {"lock_checkpoint": 1, **dict.fromkeys(chain, 1)}


@pytest.mark.parametrize("version", ["8.6.1", "10.9.0"])
def test_a_calibrator_takes_a_float32_encoder_and_no_graph_is_quantised(fresh: WorkFolder, version: str) -> None:
    on_tensorrt(fresh, version)
    calibration = {"method": "calibrator", "algorithm": "minmax", "source": "package:skimage/data/coffee.png"}
    fresh.write(backend="tensorrt", variants=BOTH, calibration=calibration)
    chain = ("export_graph_with_data", "calibrate_graph", "build_engine")
    assert fresh.planned(VISION) == {"lock_checkpoint": 1, **dict.fromkeys(chain, 1)}
    said = fresh.snakemake("--dry-run", VISION).stdout
    assert "calibration/r224_minmax.cache, calibration/r224_minmax.json" in said
    assert "calibrate_graph" not in fresh.planned("export_all")


def test_a_calibrator_on_tensorrt_11_stops_before_anything_runs(fresh: WorkFolder) -> None:
    on_tensorrt(fresh, "11.0.0")
    fresh.write(backend="tensorrt", variants=BOTH, calibration={"method": "calibrator"})
    run = fresh.snakemake("--dry-run")
    assert run.returncode != 0
    assert "method: qdq" in run.stdout


def test_another_batch_exports_nothing(built: WorkFolder) -> None:
    built.write(variants=[{"resolution": 224, "batch": [2, 4]}])
    assert built.planned() == {"build_engine": 4, **ONE_VARIANT}


def test_the_gate_rebuilds_and_rebenches_nothing(built: WorkFolder) -> None:
    built.write(gate={"float": {"box_iou": 0.9}})
    assert built.planned("bench_all") == {"verify_variant": 1, "bench_all": 1}


def test_the_benchmark_verifies_nothing_again(built: WorkFolder) -> None:
    built.write(bench={"source": ["package:skimage/data/coffee.png"], "prompts": ["cup", "cat"], "cameras": [1]})
    assert built.planned("bench_all") == {"bench_variant": 1, "bench_all": 1}


def test_comments_and_order_rerun_nothing(built: WorkFolder) -> None:
    text = (built.path / "variants.yaml").read_text()
    (built.path / "variants.yaml").write_text(f"# a comment\n{text}")
    assert built.planned() == {"all": 1}


def test_the_form_of_the_attention_exports_every_graph_again(built: WorkFolder) -> None:
    built.write(export={"attention": "plain"})
    planned = built.planned()
    assert {rule: planned[rule] for rule in planned if rule.startswith("export_")} == EXPORTS
    assert "compute_reference" not in planned


def test_another_onnxruntime_builds_every_engine_again_and_says_why(built: WorkFolder, tmp_path: Path) -> None:
    fake = tmp_path / "site/onnxruntime-99.0.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 99.0.0\n")
    planned = built.planned(PYTHONPATH=f"{fake.parent}:{PROJECT}")
    assert {rule: planned[rule] for rule in planned if rule.startswith(("export", "build"))} == {"build_engine": 4}
    said = built.snakemake("--dry-run", PYTHONPATH=f"{fake.parent}:{PROJECT}").stdout
    assert "Params have changed" in said
    assert "99.0.0" in said


def test_a_dry_run_gives_each_job_a_reason(fresh: WorkFolder) -> None:
    said = fresh.snakemake("--dry-run").stdout
    jobs = said.count("    jobid: ")
    assert jobs == sum(fresh.planned().values())
    assert said.count("    reason: ") == jobs


def test_planning_needs_neither_weights_nor_network(tmp_path: Path, make_folder: Callable[[Path], WorkFolder]) -> None:
    folder = make_folder(tmp_path / "hub")
    folder.write(model={"checkpoint": "facebook/sam3"}, variants=[{"resolution": [1008, 672]}])
    planned = folder.planned(HF_HUB_OFFLINE="1")
    assert planned["export_graph_with_data"] == 3, "two vision encoders, one text encoder"
    assert not (folder.path / "toolchain.json").exists()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("engines/b2_q50_r238/decoder.engine", "- {batch: 2, queries: 50, resolution: 238}"),
        ("engines/b2_q50_r238/decoder.engine", "nearest listed one is b2_q50_r224"),
        ("b2_q50", "b2_q50_r336"),
        ("engines/b2_q50_r225/config.json", "224 and 238"),
        ("bench/b2_q999_r224.json", "more than the model's 200"),
        ("b2_q50_r224", "engines/b2_q50_r224/verify.json"),
    ],
)
def test_an_unknown_variant_is_told_what_to_do(fresh: WorkFolder, target: str, expected: str) -> None:
    run = fresh.snakemake("--dry-run", target)
    assert run.returncode != 0
    assert expected in run.stdout


def test_a_wrong_value_stops_before_anything_runs(built: WorkFolder) -> None:
    built.write(variants=[{"resolution": 1000}])
    run = built.snakemake()
    assert run.returncode != 0
    assert "994 and 1008" in run.stdout
    assert (built.path / "engines/b2_q50_r224/verify.json").exists()


def test_the_same_checkpoint_elsewhere_plans_nothing(built: WorkFolder, demo_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(demo_checkpoint, tmp_path / "deeper/weights")
    built.write(model={"checkpoint": str(copy)})
    assert built.planned("bench_all") == {"bench_all": 1}
    (built.path / GEOMETRY).unlink()
    again = built.snakemake(GEOMETRY)  # exported from there
    assert again.returncode == 0, again.stdout


def test_images_are_inputs_by_content(built: WorkFolder, tmp_path: Path) -> None:
    """Another place plans nothing; another image under the same name, all that was made of it."""
    scales = "calibration/r224.json"
    sections = {one: dict(SETTINGS[one]) for one in ("reference", "calibration", "bench")}  # type: ignore[call-overload]
    sections["calibration"]["source"] = ["package:skimage/data/coffee.png"]
    built.write(**sections)
    assert built.snakemake(scales).returncode == 0
    for one, section in sections.items():
        section["source"] = [str(tmp_path / one / "coffee.png")]
        (tmp_path / one).mkdir()
        shutil.copyfile(locate("package:skimage/data/coffee.png"), tmp_path / one / "coffee.png")
    built.write(**sections)
    assert built.planned("bench_all", scales) == {"bench_all": 1}
    due = {
        "reference": {"compute_reference": 1, "verify_variant": 1},
        "calibration": {"measure_scales": 1},
        "bench": {"bench_variant": 1},
    }
    for one, planned in due.items():
        shutil.copyfile(locate("package:skimage/data/chelsea.png"), tmp_path / one / "coffee.png")
        assert built.planned("bench_all", scales) == {**planned, "bench_all": 1}
        shutil.copyfile(locate("package:skimage/data/coffee.png"), tmp_path / one / "coffee.png")
    shutil.rmtree(tmp_path / "reference")  # as on a machine that has only what was made of it
    assert built.planned("bench_all", scales) == {"bench_all": 1}


def test_another_checkpoint_needs_another_folder(built: WorkFolder, video_checkpoint: Path) -> None:
    built.write(model={"checkpoint": str(video_checkpoint)})
    run = built.snakemake("--dry-run")
    assert run.returncode != 0
    assert "snakemake --directory" in run.stdout


@pytest.mark.parametrize("calibration", [{}, {"method": "calibrator", "algorithm": "minmax"}])
def test_the_rules_write_where_the_paths_say(fresh: WorkFolder, calibration: dict[str, str]) -> None:
    """``paths.chain`` has every file and every log of a variant's jobs, and no other."""
    on_tensorrt(fresh, "8.6.1")
    (fresh.path / "annotations.json").write_text("{}")
    settings = {"calibration": {"source": "package:skimage/data/coffee.png", **calibration}, "variants": BOTH}
    fresh.write(backend="tensorrt", accuracy={"annotations": "annotations.json"}, **settings)
    plan = make_plan(fresh.path / "variants.yaml", fresh.path)
    steps = [step for name in plan.names for step in chain(plan, plan.variant(name))]
    measured = [step.files[0] for step in steps if step.stage in ("verify", "bench", "accuracy", "baseline")]
    said = fresh.snakemake("--dry-run", *measured)
    assert said.returncode == 0, said.stdout
    outputs = {file for line in re.findall(r"^    output: (.*)$", said.stdout, re.M) for file in line.split(", ")}
    logs = set(re.findall(r"^    log: (.*)$", said.stdout, re.M))
    assert {file.removesuffix(" (update)") for file in outputs} == {file for step in steps for file in step.files}
    assert logs == {step.log for step in steps}
    assert len(steps) > 2 * len(PART_NAMES) * 2


def test_every_rule_file_opens_with_purpose_inputs_and_outputs() -> None:
    files = sorted((PROJECT / "rules").glob("*.smk"))
    assert len(files) == 8
    for path in files:
        head = path.read_text().split('"""')[1]
        assert "INPUTS" in head, path
        assert "OUTPUTS" in head, path
