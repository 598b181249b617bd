"""The Python builder under nine releases of TensorRT, each with its own names alone, on the graphs of this project."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.gpus import Gpu
from sam3_runtime.engines.building import CalibrationCache, Task, build_engine, tensorrt
from sam3_runtime.families.sam3.parts import ModelDims
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.plan.toolchain import release_of
from tests.engines.building.conftest import QUERIES
from tests.engines.building.fake_tensorrt import RELEASES, make_module, network_flag_names, says, written

H200 = Gpu("NVIDIA H200", "9.0", "580.0", 141 << 30, "GPU-1")
BATCH = 4
OLD = [release for release in RELEASES if release_of(release) < (9,)]
STRONG = [release for release in RELEASES if release_of(release) >= (9,)]
FLAGGED = [release for release in RELEASES if release_of(release) < (11,)]
PARTS = ("vision-encoder", "text-encoder", "geometry-encoder", f"decoder_q{QUERIES}")
OUT_OF_MEMORY = "Could not find any implementation for node {ForeignNode[a...b]}."


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU, and nothing on PATH."""
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: H200)
    monkeypatch.setattr(tensorrt, "trtexec_version", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Install the fake of a release; gives the module."""

    def install(release: str) -> Any:
        module = make_module(release)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return install


def make_task(graph: Path, folder: Path, release: str, **changes: Any) -> Task:
    facts = read_graph(graph)
    task = Task(
        graph=facts,
        path=graph,
        engine=folder / f"{graph.stem}.engine",
        ranges=SAM3.profile(SAM3.part_of(facts.name), ModelDims(**facts.dims), BATCH),
        settings={},
        precision="fp16",
        toolchain={"backend": "tensorrt", "version": release, "gpu": H200.name, "compute_capability": "9.0"},
    )
    return replace(task, **changes)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", PARTS)
def test_every_release_builds_every_part(
    release: str, name: str, typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use(release)
    built = tensorrt.build(make_task(typed_graphs[name], tmp_path, release))
    told = module._told
    strong = release_of(release) >= (9,)
    batch_flag = {"EXPLICIT_BATCH"} if release_of(release) < (10,) else set()
    assert network_flag_names(module) == batch_flag | ({"STRONGLY_TYPED"} if strong else set())
    islands = {"OBEY_PRECISION_CONSTRAINTS"} if read_graph(typed_graphs[name]).islands else set()
    assert told.flags == (set() if strong else {"FP16"} | islands)
    assert told.cleared == {"TF32"}
    assert len(told.profiles) == 1
    types = {tensor.name: tensor.dtype for tensor in (*built.inputs, *built.outputs)}
    integers = {types[t] for t in ("input_ids", "input_boxes_labels", "query_index") if t in types}
    assert integers <= {"int64" if strong else "int32"}
    assert built.layers is not None
    assert built.layers.narrowed == ()
    assert built.activation == 4096


@pytest.mark.parametrize("release", RELEASES)
def test_what_the_settings_say_reaches_the_builder(
    release: str, typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use(release)
    settings = {"workspace_mib": 2048, "optimization_level": 1, "tactic_sources": ["jit_convolutions"]}
    built = tensorrt.build(make_task(typed_graphs["text-encoder"], tmp_path, release, settings=settings))
    told = module._told
    assert (told.workspace, told.level) == (2048 << 20, 1)
    assert told.tactics == 1 << int(module.TacticSource.JIT_CONVOLUTIONS)
    assert "--memPoolSize=workspace:2048" in built.command
    assert "--builderOptimizationLevel=1" in built.command
    assert ("-CUBLAS,-CUBLAS_LT,-CUDNN," in built.command) == (release_of(release) < (11,))
    assert "+JIT_CONVOLUTIONS" in built.command
    assert str(tmp_path) not in built.command


def test_the_profile_is_the_contracts(typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]) -> None:
    module = use("8.6.1")
    graph = typed_graphs["geometry-encoder"]
    optimal = {"n": 3, "P": 2}
    ranges = SAM3.profile(SAM3.part_of("geometry-encoder"), ModelDims(**read_graph(graph).dims), BATCH, optimal)
    tensorrt.build(make_task(graph, tmp_path, "8.6.1", ranges=ranges))
    shapes = module._told.profiles[0]
    assert shapes["input_boxes"] == ((1, 1, 4), (2, 3, 4), (4, 27, 4))
    assert [side[0] for side in shapes["fpn_feat_2"]] == [1, 4, 4]
    assert len(set(shapes["fpn_pos_2"])) == 1


@pytest.mark.parametrize("release", OLD)
def test_islands_are_held_by_layer_precisions(
    release: str, typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use(release)
    graph = typed_graphs["geometry-encoder"]
    built = tensorrt.build(make_task(graph, tmp_path, release))
    islands = {name for names in read_graph(graph).islands.values() for name in names}
    assert islands <= module._told.wide
    others = module._told.wide - islands
    assert others
    assert all(name.startswith("(Unnamed Layer") for name in others)
    assert built.layers is not None
    assert built.layers.types["float32"] >= len(islands)
    assert "--precisionConstraints=obey" in built.command


def test_an_island_that_does_not_hold_is_named(
    typed_graphs: dict[str, Path],
    tmp_path: Path,
    use: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = use("8.6.1")
    monkeypatch.setattr(module._told, "on_build", lambda *_: module._told.wide.clear() is None)
    graph = typed_graphs["geometry-encoder"]
    built = tensorrt.build(make_task(graph, tmp_path, "8.6.1"))
    assert built.layers is not None
    assert set(built.layers.narrowed) == {name for names in read_graph(graph).islands.values() for name in names}
    assert "WARNING: float32 was asked for and is not used in" in capsys.readouterr().out


def cache_at(folder: Path, **changes: Any) -> CalibrationCache:
    path = folder / "r112.cache"
    path.write_bytes(b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n")
    return replace(CalibrationCache(path, "entropy", key="k" * 8), **changes)


@pytest.mark.parametrize("release", FLAGGED)
@pytest.mark.parametrize("algorithm", ["entropy", "minmax", "percentile"])
def test_calibrated_engines_are_built_from_the_cache_alone(
    release: str, algorithm: str, float_graphs: Path, tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use(release)
    seen: dict[str, Any] = {}

    def build(logger: Any, network: Any, config: Any) -> bool:  # noqa: ARG001
        calibrator = config.int8_calibrator
        seen["kind"] = type(calibrator).__mro__[1].__name__
        seen["cache"] = calibrator.read_calibration_cache()
        return True

    module._told.on_build = build
    cache = cache_at(tmp_path, algorithm=algorithm, percentile=99.9)
    built = tensorrt.build(make_task(float_graphs, tmp_path, release, calibration=cache))
    assert seen == {
        "kind": {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}.get(
            algorithm, "IInt8LegacyCalibrator"
        ),
        "cache": cache.path.read_bytes(),
    }
    assert module._told.flags == {"FP16", "INT8"}
    assert "STRONGLY_TYPED" not in network_flag_names(module)
    assert "--int8 --calib=r112.cache" in built.command
    assert {tensor.dtype for tensor in (*built.inputs, *built.outputs)} == {"float16"}


def test_scales_that_do_not_match_are_an_error(float_graphs: Path, tmp_path: Path, use: Callable[[str], Any]) -> None:
    module = use("8.6.1")
    task = make_task(float_graphs, tmp_path, "8.6.1", calibration=cache_at(tmp_path))
    expected = r"r112\.cache does not match: TensorRT wanted to calibrate again\nHint: .*--forcerun"
    module._told.on_build = says("Calibration table does not match calibrator algorithm type.", "WARNING", then=True)
    with pytest.raises(BuildError, match=expected):
        tensorrt.build(task)
    module._told.on_build = lambda _logger, _network, config: config.int8_calibrator.get_batch(["images"]) is None
    with pytest.raises(BuildError, match=expected):
        tensorrt.build(task)
    assert not task.engine.exists()


def test_eleven_has_no_calibrators(float_graphs: Path, tmp_path: Path, use: Callable[[str], Any]) -> None:
    use("11.0")
    with pytest.raises(BuildError, match=r"TensorRT 11\.0 has no calibrators\nHint: .*method: qdq"):
        tensorrt.build(make_task(float_graphs, tmp_path, "11.0", calibration=cache_at(tmp_path)))


@pytest.mark.parametrize("release", FLAGGED)
def test_a_calibration_ends_with_its_cache(
    release: str, float_graphs: Path, tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use(release)
    done: list[bool] = []

    def build(logger: Any, network: Any, config: Any) -> bool:  # noqa: ARG001
        logger.log(logger.Severity.WARNING, "Tensor neck is uniformly zero.")
        monitor = getattr(config, "progress_monitor", None)
        assert monitor is None or monitor.step_complete("Calibrating", 1)
        done.append(True)
        return monitor is None or monitor.step_complete("Calibrating", 2)

    module._told.on_build = build
    base: Any = module.IInt8EntropyCalibrator2
    task = make_task(float_graphs, tmp_path, release)
    zeros = tensorrt.calibrate(task, lambda trt: base(), batch=3, is_done=lambda: bool(done))  # noqa: ARG005
    assert zeros == {"neck"}
    told = module._told
    assert told.flags == {"FP16", "INT8"}
    assert told.level == 0
    assert {side[0] for side in told.calibration_profile["images"]} == {3}
    assert told.profiles[0]["images"][1][0] == 3
    assert not task.engine.exists()


@pytest.mark.parametrize("release", RELEASES)
def test_quantised_graphs(
    release: str,
    float_graphs: Path,
    eight_bit_graph: Callable[[str], Path],
    tmp_path: Path,
    use: Callable[[str], Any],
) -> None:
    """Strongly typed on the float16 graph; with flags on the float32 one, which has its types in the flags."""
    module = use(release)
    flagged = release_of(release) < (9,)
    graph = float_graphs if flagged else eight_bit_graph("int8")
    task = make_task(graph, tmp_path, release)
    task = replace(task, graph=replace(task.graph, quantize="int8"), toolchain=task.toolchain | {"version": release})
    if not flagged and read_graph(graph).opset > 20 and release_of(release) < (10, 14):
        pytest.skip("its opset is newer than the parser")
    built = tensorrt.build(task)
    assert module._told.flags == ({"FP16", "INT8"} if flagged else set())
    assert {tensor.dtype for tensor in (*built.inputs, *built.outputs)} == {"float16"}
    assert ("--stronglyTyped" in built.command) == ((9,) <= release_of(release) < (11,))


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_build_without_memory_is_tried_with_smaller_workspaces(
    typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use("8.6.1")
    tried: list[int | None] = []

    def build(logger: Any, network: Any, config: Any) -> bool:  # noqa: ARG001
        tried.append(module._told.workspace and module._told.workspace >> 20)
        logger.log(logger.Severity.ERROR, OUT_OF_MEMORY)
        return len(tried) > 2

    said: list[str] = []
    module._told.on_build = build
    task = make_task(typed_graphs["text-encoder"], tmp_path, "8.6.1", announce=said.append)
    built = tensorrt.build(task)
    half = (141 << 10) // 2
    assert tried == [None, half, half // 2]
    assert f"--memPoolSize=workspace:{half // 2}" in built.command
    assert [f"trying again with a workspace of {size} MiB" in text for size, text in zip(tried[1:], said, strict=True)]
    assert "Could not find any implementation" in said[0]


def test_the_tries_end(typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]) -> None:
    module = use("10.9.0")
    module._told.on_build = says(OUT_OF_MEMORY)
    task = make_task(typed_graphs["text-encoder"], tmp_path, "10.9.0", settings={"workspace_mib": 1100})
    with pytest.raises(BuildError, match=r"Could not find any implementation(.|\n)*Hint: the build ran out of memory"):
        tensorrt.build(task)
    assert module._told.builds == 2  # 1100 and 550; smaller ones are below the floor
    assert not task.engine.exists()


def test_another_failure_is_not_tried_again(
    typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]
) -> None:
    module = use("10.9.0")
    module._told.on_build = says("the moon is full")
    with pytest.raises(BuildError, match=r"TensorRT 10\.9\.0 cannot build text-encoder\.onnx: the moon is full"):
        tensorrt.build(make_task(typed_graphs["text-encoder"], tmp_path, "10.9.0"))
    assert module._told.builds == 1


# --- what is missing ------------------------------------------------------------------------------------------------


def test_no_gpu(typed_graphs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: None)
    with pytest.raises(BuildError, match=r"no NVIDIA GPU was found\nHint: .*tensorrt-rtx or onnxruntime"):
        tensorrt.build(make_task(typed_graphs["text-encoder"], tmp_path, "8.6.1"))


def test_no_tensorrt(typed_graphs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BuildError, match=r"TensorRT is not installed here.*\nHint: .*sam3-runtime\[tensorrt\]"):
        tensorrt.build(make_task(typed_graphs["text-encoder"], tmp_path, "not installed"))


def test_another_tensorrt_than_planned(
    typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any]
) -> None:
    use("10.9.0")
    with pytest.raises(BuildError, match=r"TensorRT 10\.9\.0 is imported here, and the build was planned with 8\.6\.1"):
        tensorrt.build(make_task(typed_graphs["text-encoder"], tmp_path, "8.6.1"))


def test_a_failed_build_leaves_nothing_and_the_record_tells_how_it_was_built(
    typed_graphs: dict[str, Path], tmp_path: Path, use: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = use("8.6.1")
    monkeypatch.chdir(tmp_path)
    graph, engine, cache = typed_graphs["geometry-encoder"], tmp_path / "geometry-encoder.engine", tmp_path / "cache"
    options: dict[str, Any] = {
        "batch": BATCH,
        "precision": "fp16",
        "toolchain": {"backend": "tensorrt", "version": "8.6.1", "gpu": H200.name, "compute_capability": "9.0"},
        "settings": {"workspace_mib": 600, "optimal": {"n": 2}},
        "timing_cache": tmp_path / "timing.cache",
    }
    task = Task.of(graph, engine, **options)
    module._told.on_build = says("the moon is full")
    with pytest.raises(BuildError):
        build_engine(task, code="", cache=cache)
    assert not engine.exists()
    assert not list(cache.glob("[0-9a-f]*"))
    assert not list(cache.glob("*.part"))
    assert not (tmp_path / "timing.cache").exists()
    module._told.on_build = lambda *_: True
    held: list[Path] = []

    @contextmanager
    def hold() -> Iterator[None]:
        held.append(engine)
        yield

    record = build_engine(task, code="", cache=cache, hold=hold)
    engine.unlink()
    assert build_engine(task, code="", cache=cache, hold=hold) == record
    assert held == [engine], "what is in the cache waits for no GPU"
    assert record.toolchain.gpu == "NVIDIA H200"
    assert record.profile["n"] == (1, 2, 27)
    assert record.layers is not None
    assert sum(record.precision_got.values()) == len(read_graph(graph).products)
    assert record.command.startswith("trtexec --onnx=geometry-encoder.onnx --saveEngine=geometry-encoder.engine")
    assert (tmp_path / "timing.cache").read_bytes() == b"measured"
    assert set(written(engine)) == {"tensors", "Layers"}
