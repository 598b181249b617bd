"""What each rule depends on, and what a backend makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.contract import PART_NAMES
from sam3_runtime.planning import Plan, make_plan

TEXT = "backend: {backend}\nbuild: {{rtx: {{gpus: {gpus}}}, optimization: {level}}}\nvariants: [{{resolution: 672}}]\n"


def plan(folder: Path, backend: str = "tensorrt-rtx", gpus: str = "[ada]", level: str = "extended") -> Plan:
    file = folder / "variants.yaml"
    file.write_text(TEXT.format(backend=backend, gpus=gpus, level=level))
    return make_plan(file, folder)


def slices(made: Plan) -> dict[str, object]:
    """Everything that rules depend on, except what builds do."""
    name = made.names[0]
    found: dict[str, object] = {"verify": made.verify(name), "bench": made.bench(), "configure": made.configure(name)}
    return found | {"export": [made.export(part) for part in PART_NAMES], "reference": made.reference()}


def test_generations_are_what_every_build_depends_on_and_nothing_else(tmp_path: Path) -> None:
    one, two = plan(tmp_path), plan(tmp_path, gpus="[ada, blackwell]")
    assert one.build("decoder")["settings"] == {"gpus": ["8.9"]}
    assert all(one.build(part) != two.build(part) for part in PART_NAMES)
    assert slices(one) == slices(two)


def test_the_order_and_the_names_of_generations_rebuild_nothing(tmp_path: Path) -> None:
    assert plan(tmp_path, gpus="[120, 8.9]").build("decoder") == plan(tmp_path, gpus="[ada, blackwell]").build(
        "decoder"
    )


def test_each_backend_depends_on_its_own_settings(tmp_path: Path) -> None:
    assert plan(tmp_path, level="all").build("decoder") == plan(tmp_path).build("decoder")
    onnx = plan(tmp_path, "onnxruntime", gpus="[turing]")
    assert onnx.build("decoder") == plan(tmp_path, "onnxruntime").build("decoder")
    assert onnx.precision("decoder") == "fp32"
    assert plan(tmp_path).precision("decoder") == "fp16"


def test_the_version_and_no_gpu_is_what_tensorrt_rtx_is_known_by(tmp_path: Path) -> None:
    toolchain = plan(tmp_path).build("decoder")["toolchain"]
    assert toolchain["backend"] == "tensorrt-rtx"
    assert toolchain["gpu"] is None
    assert toolchain["compute_capability"] is None


def test_auto_never_chooses_tensorrt_rtx(tmp_path: Path) -> None:
    assert plan(tmp_path, "auto").toolchain.backend == "onnxruntime"


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt-rtx"])
def test_the_modules_of_a_builder_are_there(tmp_path: Path, backend: str, project: Path) -> None:
    for module in plan(tmp_path, backend).builder_modules():
        assert (project / "sam3_runtime" / module).is_file()
