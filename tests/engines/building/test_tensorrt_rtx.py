"""NVIDIA's own parser and compiler on every graph that this project writes, without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")
trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'sam3-runtime[rtx]'")

from onnx import helper  # noqa: E402

from sam3_runtime.core.errors import BuildError  # noqa: E402
from sam3_runtime.engines.building import Task, build_engine, tensorrt_rtx  # noqa: E402
from sam3_runtime.engines.building.tensorrt_common import make_logger  # noqa: E402
from sam3_runtime.engines.building.tensorrt_messages import BuildLog  # noqa: E402
from sam3_runtime.plan.toolchain import probe  # noqa: E402
from sam3_runtime.records.records import EngineRecord  # noqa: E402
from tests.engines.building.conftest import QUERIES  # noqa: E402

BATCH = 4
BOTH = ["8.9", "12.0"]
Built = tuple[EngineRecord, str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EngineRecord]:
    folder = tmp_path_factory.mktemp("engines")

    def run(graph: Path, gpus: Sequence[str] = BOTH) -> EngineRecord:
        engine, toolchain = folder / f"{graph.stem}.engine", probe("tensorrt-rtx").key()
        task = Task.of(graph, engine, batch=BATCH, settings={"gpus": list(gpus)}, toolchain=toolchain)
        return build_engine(task, code="", cache=folder / "cache")

    return run


def compile_alone(graph: Path, engine: Path, gpus: Sequence[str] = BOTH) -> Any:
    """The builder without cache and record."""
    return tensorrt_rtx.build(Task.of(graph, engine, batch=BATCH, settings={"gpus": list(gpus)}))


@pytest.mark.parametrize("name", ["vision-encoder", "text-encoder", "geometry-encoder", f"decoder_q{QUERIES}"])
def test_every_part_builds_for_two_generations(
    name: str, typed_graphs: dict[str, Path], build: Callable[..., EngineRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    record = build(typed_graphs[name])
    said = capfd.readouterr().out
    assert record.settings == {"gpus": BOTH}
    assert record.toolchain.version == trt.__version__
    assert set(record.precision_got) <= {"float16", "float32"}
    assert record.precision_got["float16"] > sum(record.precision_got.values()) / 2
    sizes = record.sizes
    assert sizes.weights
    assert sizes.scratch
    assert sizes.activation
    assert sizes.file > sizes.weights
    assert record.build_peak_mib is None or record.build_peak_mib > 100
    assert "cannot explain" not in said
    assert "Total Weights Memory" in said


def test_the_record_has_the_contracts_tensors(
    typed_graphs: dict[str, Path], build: Callable[..., EngineRecord]
) -> None:
    record = build(typed_graphs["geometry-encoder"])
    assert {tensor.name: (tensor.shape[0], tensor.dtype) for tensor in record.inputs} == {
        "input_boxes": ("P", "float32"),
        "input_boxes_labels": ("P", "int64"),
        "fpn_feat_2": ("N", "float16"),
        "fpn_pos_2": (1, "float16"),
    }
    assert record.outputs[0].shape[1] == "n+1"
    assert record.profile == {"P": (1, 4, 4), "n": (1, 8, 27), "N": (1, 4, 4)}


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_eight_bits_build_and_store_eight_bits(
    quantize: str,
    eight_bit_graph: Callable[[str], Path],
    typed_graphs: dict[str, Path],
    build: Callable[..., EngineRecord],
    capfd: pytest.CaptureFixture[str],
) -> None:
    record, sibling = build(eight_bit_graph(quantize)), build(typed_graphs["vision-encoder"])
    assert record.quantize == quantize
    assert record.precision_got[quantize] > record.precision_got["float16"]
    assert record.sizes.weights is not None
    assert sibling.sizes.weights is not None
    assert record.sizes.weights < 0.75 * sibling.sizes.weights
    assert "cannot explain" not in capfd.readouterr().out


def test_fp8_for_ampere_is_refused_in_nvidias_words_with_the_fix(
    eight_bit_graph: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = r"(?s)Cannot compile for target\(s\) sm86.*fp8_e4m3.*\nHint: FP8 needs Ada .*build\.rtx\.gpus.*int8"
    with pytest.raises(BuildError, match=expected):
        compile_alone(eight_bit_graph("fp8"), tmp_path / "x.engine", ["8.6", "8.9"])
    assert not (tmp_path / "x.engine").exists()


def test_a_range_in_float16_is_refused(write_graph: Callable[..., Path], tmp_path: Path) -> None:
    half = {"start": np.float16(0), "stop": np.float16(16), "step": np.float16(1)}
    nodes = [
        helper.make_node("Range", list(half), ["places"], name="positions/Range"),
        helper.make_node("Add", ["images", "places"], ["y"]),
    ]
    expected = (
        r"refuses vision-encoder\.onnx: Range positions/Range: .*only supports int32.*\nHint: this builder cannot read"
    )
    with pytest.raises(BuildError, match=expected):
        compile_alone(write_graph(nodes, **half), tmp_path / "x.engine")


def test_an_opset_that_is_too_new_is_refused(write_graph: Callable[..., Path], tmp_path: Path) -> None:
    """NVIDIA's parser would take it for the newest that it knows."""
    graph = write_graph([helper.make_node("Relu", ["images"], ["y"])], opset=99)
    with pytest.raises(BuildError, match=r"ONNX opset 99, .* up to 25\nHint: export it again"):
        compile_alone(graph, tmp_path / "x.engine")


def test_types_that_do_not_agree_are_refused(write_graph: Callable[..., Path], tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["images", "wide"], ["y"], name="sum")]
    with pytest.raises(BuildError, match=r"Float.*\nHint: this builder cannot read the graph"):
        compile_alone(write_graph(nodes, wide=np.float32(1)), tmp_path / "x.engine")


def test_an_operator_that_it_does_not_know_is_named(write_graph: Callable[..., Path], tmp_path: Path) -> None:
    graph = write_graph([helper.make_node("Frobnicate", ["images"], ["y"], name="frob")])
    with pytest.raises(BuildError, match=r"Frobnicate frob: .*Plugin not found.*\nHint: this builder cannot read"):
        compile_alone(graph, tmp_path / "x.engine")


def test_a_graph_of_another_precision_than_asked_for(write_graph: Callable[..., Path], build: Any) -> None:
    graph = write_graph([helper.make_node("Relu", ["images"], ["y"])])
    with pytest.raises(BuildError, match=r"is a fp32 graph, but fp16 was asked for\nHint: run snakemake --force"):
        build(graph)


def test_a_generation_that_this_tensorrt_rtx_does_not_know(typed_graphs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"does not compile for 13\.7\nHint: it supports .*SM89"):
        compile_alone(typed_graphs["text-encoder"], tmp_path / "x.engine", ["13.7"])


def test_a_missing_package_names_the_extra(
    typed_graphs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BuildError, match=r"not installed here.*\n.*pip install 'sam3-runtime\[rtx\]'"):
        compile_alone(typed_graphs["text-encoder"], tmp_path / "x.engine")


def test_the_logger_sorts_what_it_is_told() -> None:
    log = BuildLog()
    logger = make_logger(trt, log)
    logger.log(trt.ILogger.WARNING, "odd")
    logger.log(trt.ILogger.ERROR, "bad")
    assert (log.warnings, log.errors) == (["odd"], ["bad"])
