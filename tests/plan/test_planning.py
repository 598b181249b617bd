"""What each rule depends on, and what a backend makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import VariantsError
from sam3_runtime.core.gpus import Gpu
from sam3_runtime.families.sam3.parts import PART_NAMES
from sam3_runtime.plan import toolchain
from sam3_runtime.plan.planning import Plan, make_plan
from sam3_runtime.records.records import Toolchain

TEXT = "backend: {backend}\nbuild: {{rtx: {{gpus: {gpus}}}, optimization: {level}}}\nvariants: [{{resolution: 672}}]\n"


def plan(folder: Path, backend: str = "tensorrt-rtx", gpus: str = "[ada]", level: str = "extended") -> Plan:
    file = folder / "variants.yaml"
    file.write_text(TEXT.format(backend=backend, gpus=gpus, level=level))
    return make_plan(file, folder)


def params_of(made: Plan) -> dict[str, object]:
    """Everything that rules depend on, except what builds do."""
    name = made.names[0]
    found: dict[str, object] = {"verify": made.verify(name), "bench": made.bench(), "configure": made.configure(name)}
    return found | {"export": [made.export(part) for part in PART_NAMES], "reference": made.reference()}


def test_generations_are_what_every_build_depends_on_and_nothing_else(tmp_path: Path) -> None:
    one, two = plan(tmp_path), plan(tmp_path, gpus="[ada, blackwell]")
    assert one.build()["settings"] == {"gpus": ["8.9"]}
    assert one.build() != two.build()
    assert params_of(one) == params_of(two)


def test_the_order_and_the_names_of_generations_rebuild_nothing(tmp_path: Path) -> None:
    assert plan(tmp_path, gpus="[120, 8.9]").build() == plan(tmp_path, gpus="[ada, blackwell]").build()


def test_each_backend_depends_on_its_own_settings(tmp_path: Path) -> None:
    assert plan(tmp_path, level="all").build() == plan(tmp_path).build()
    onnx = plan(tmp_path, "onnxruntime", gpus="[turing]")
    assert onnx.build() == plan(tmp_path, "onnxruntime").build()
    assert onnx.precision("decoder") == "fp32"
    assert plan(tmp_path).precision("decoder") == "fp16"


def test_the_version_and_no_gpu_is_what_tensorrt_rtx_is_known_by(tmp_path: Path) -> None:
    toolchain = plan(tmp_path).build()["toolchain"]
    assert toolchain["backend"] == "tensorrt-rtx"
    assert toolchain["gpu"] is None
    assert toolchain["compute_capability"] is None


def test_auto_never_chooses_tensorrt_rtx(tmp_path: Path) -> None:
    assert plan(tmp_path, "auto").toolchain.backend == "onnxruntime"


def test_the_cpu_decides_about_8_bit_engines_of_onnx_runtime_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, elsewhere = plan(tmp_path, "onnxruntime"), plan(tmp_path, "tensorrt-rtx")
    for products in ("u8s8", "u8u8"):
        monkeypatch.setattr("sam3_runtime.plan.planning.eight_bit_products", lambda products=products: products)
        assert on_cpu.eight_bit("_int8") == {"products": products}
        assert on_cpu.eight_bit("") == elsewhere.eight_bit("_int8") == {}


# 8 bits and TensorRT's releases -----------------------------------------------------------------------------------


def plan_for_tensorrt(folder: Path, version: str, text: str = "") -> Plan:
    """On a machine that only plans: what builds is recorded."""
    gpu = {"gpu": "NVIDIA H200", "compute_capability": "9.0"}
    Toolchain(backend="tensorrt", version=version, **gpu).write(folder / "toolchain.json")
    file = folder / "variants.yaml"
    file.write_text(f"backend: tensorrt\nvariants: [{{resolution: 672, quantize: [none, int8]}}]\n{text}")
    return make_plan(file, folder)


@pytest.mark.parametrize(
    ("version", "text", "source"),
    [
        ("8.6.1", "", "_fp32"),
        ("8.6.1.post1", "", "_fp32"),
        ("9.3.0.post12.dev1", "", "_fp32"),
        ("10.0.1", "", ""),
        ("10.9.0", "", ""),
        ("11.0.0", "", ""),
        ("8.6.1", "precision: fp32", ""),
        ("8.6.1", "precision: {text-encoder: fp32}", "_fp32"),
        ("10.9.0", "calibration: {method: calibrator}", "_fp32"),
        ("10.9.0", "calibration: {method: calibrator}\nprecision: fp32", ""),
        ("10.9.0", "calibration: {method: qdq}", ""),
    ],
)
def test_8_bits_come_from_a_graph_that_the_release_reads(tmp_path: Path, version: str, text: str, source: str) -> None:
    made = plan_for_tensorrt(tmp_path, version, text)
    assert made.eight_bit_source == source
    assert made.data_ending("_int8") == source
    assert made.graph_ending("_int8") == (source if made.calibrates else "_int8")
    assert made.graph_ending("") == made.data_ending("") == ""


def test_other_backends_quantise_their_own_graph(tmp_path: Path) -> None:
    assert plan(tmp_path).eight_bit_source == plan(tmp_path, "onnxruntime").eight_bit_source == ""


@pytest.mark.parametrize(
    ("text", "algorithm", "percentile"),
    [
        ("", "percentile", 99.99),
        ("calibration: {percentile: 99.9}", "percentile", 99.9),
        ("calibration: {algorithm: entropy, percentile: 99.9}", "entropy", None),
        ("calibration: {method: calibrator}", "entropy", None),
        ("calibration: {method: calibrator, algorithm: percentile}", "percentile", 99.99),
    ],
)
def test_the_algorithm_is_the_files_or_the_methods_own(
    tmp_path: Path, text: str, algorithm: str, percentile: float | None
) -> None:
    made = plan_for_tensorrt(tmp_path, "8.6.1", text)
    assert made.algorithm == algorithm
    depends = made.calibrator() if made.calibrates else made.calibration()
    assert (depends["algorithm"], depends.get("percentile")) == (algorithm, percentile)


def test_calibrators_depend_on_their_tensorrt_and_no_gpu_and_no_workspace(tmp_path: Path) -> None:
    one = plan_for_tensorrt(tmp_path, "8.6.1", "calibration: {method: calibrator, batch: 2}")
    assert one.calibrator()["toolchain"] == {"backend": "tensorrt", "version": "8.6.1"}
    assert one.calibrator()["batch"] == 2
    tensorrt = "build: {tensorrt: {workspace_mib: 512, tactic_sources: [], optimization_level: 5}}"
    other = plan_for_tensorrt(tmp_path, "8.6.1", f"calibration: {{method: calibrator, batch: 2}}\n{tensorrt}")
    assert other.calibrator() == one.calibrator()
    assert other.locations()["calibrator_settings"] == {"workspace_mib": 512, "tactic_sources": []}
    assert other.calibration() == one.calibration()


@pytest.mark.parametrize("version", ["11.0.0", "11.1.0.5"])
def test_calibrators_are_refused_where_there_are_none_and_qdq_is_named(tmp_path: Path, version: str) -> None:
    with pytest.raises(
        VariantsError, match=rf"TensorRT {version} does not support calibration.method: calibrator(.|\n)*method: qdq"
    ):
        plan_for_tensorrt(tmp_path, version, "calibration: {method: calibrator}")


@pytest.mark.parametrize("method", ["auto", "qdq"])
def test_newest_releases_take_the_other_methods(tmp_path: Path, method: str) -> None:
    assert not plan_for_tensorrt(tmp_path, "11.0.0", f"calibration: {{method: {method}}}").calibrates


def test_fp8_is_refused_before_tensorrt_10(tmp_path: Path) -> None:
    fp8 = "defaults: {quantize: fp8}"
    file = tmp_path / "variants.yaml"
    assert plan_for_tensorrt(tmp_path, "10.0.1").toolchain.version == "10.0.1"
    file.write_text(f"backend: tensorrt\nvariants: [{{}}]\n{fp8}\n")
    assert make_plan(file, tmp_path).names == ["b8_q50_r1008_fp8"]
    Toolchain(backend="tensorrt", version="9.3.0").write(tmp_path / "toolchain.json")
    with pytest.raises(VariantsError, match=r"b8_q50_r1008_fp8 asks for fp8.*9\.3\.0"):
        make_plan(file, tmp_path)


# --- TensorRT -------------------------------------------------------------------------------------------------------


def on_tensorrt(folder: Path, build: str = "{}") -> Plan:
    """A plan for a folder that an H200 built: this machine only plans."""
    gpu = {"gpu": "NVIDIA H200", "compute_capability": "9.0", "driver": "580.65", "cuda": "13.0"}
    Toolchain(backend="tensorrt", version="8.6.1", **gpu).write(folder / "toolchain.json")
    file = folder / "variants.yaml"
    file.write_text(f"backend: tensorrt\nbuild: {build}\nvariants: [{{resolution: 672}}]\n")
    return make_plan(file, folder)


def test_tensorrt_engines_depend_on_what_the_builder_is_told(tmp_path: Path) -> None:
    assert on_tensorrt(tmp_path).build()["settings"] == {}
    told = on_tensorrt(
        tmp_path,
        "{optimal: {B: 1, n: 3}, tensorrt: {workspace_mib: 4096, optimization_level: 5, tactic_sources: []}}",
    ).build()
    assert told["settings"] == {
        "workspace_mib": 4096, "optimization_level": 5, "tactic_sources": [], "optimal": {"B": 1, "n": 3},
    }  # fmt: skip
    assert told["toolchain"] == {
        "backend": "tensorrt", "version": "8.6.1", "gpu": "NVIDIA H200", "compute_capability": "9.0",
    }  # fmt: skip


def test_options_and_locations_are_not_among_it(tmp_path: Path) -> None:
    one = on_tensorrt(tmp_path)
    two = on_tensorrt(tmp_path, "{gpu: [2, 0, 2], tensorrt: {builder: python, timing_cache: there/timings}}")
    assert one.build() == two.build()
    assert params_of(one) == params_of(two)
    here, there = one.locations(), two.locations()
    assert (here["build_gpus"], there["build_gpus"], there["run_gpus"]) == ([0], [2, 0], [2, 0])
    assert (here["timing_cache"], there["timing_cache"]) == ("engines/cache/timing.cache", "there/timings")


def test_the_device_of_a_plan_is_the_gpu_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be no. 2 of a machine whose first is of another model."""
    monkeypatch.setattr(toolchain, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "580.65", 24 << 30, "GPU-a"))
    assert on_tensorrt(tmp_path, "{gpu: 2}").device() == "NVIDIA H200"
    (tmp_path / "rtx").mkdir()
    assert plan(tmp_path / "rtx").device() == "NVIDIA L4"


def test_which_backends_hold_a_gpu(tmp_path: Path) -> None:
    rtx, cpu = plan(tmp_path).locations(), plan(tmp_path, backend="onnxruntime").locations()
    assert (rtx["build_gpus"], rtx["run_gpus"]) == ([], [0])
    assert (cpu["build_gpus"], cpu["run_gpus"]) == ([], [])
