"""TensorRT's calibrators, on stand-ins for its classes: the callbacks have the signatures that its bindings call."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("onnx.checker")

from sam3_runtime.core.gpus import Gpu
from sam3_runtime.engines.building import CalibrationCache, Task, build_engine, tensorrt
from sam3_runtime.engines.building.tensorrt_calibrators import cached_calibrator, make_calibrator
from sam3_runtime.engines.running import cuda
from sam3_runtime.families import exporter
from sam3_runtime.graphs.export import export_graph
from sam3_runtime.plan.toolchain import release_of
from sam3_runtime.quantize.calibrate import calibrate
from sam3_runtime.quantize.calibration_cache import CalibratorRecord, open_cache
from sam3_runtime.records.records import EngineRecord
from tests.engines.building.fake_tensorrt import RELEASES, make_module
from tests.engines.building.trt_api import read_api

CACHE = b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n"
WITH_CALIBRATORS = [release for release in RELEASES if release_of(release) < (11,)]
CLASSES = {
    "entropy": "IInt8EntropyCalibrator2",
    "minmax": "IInt8MinMaxCalibrator",
    "percentile": "IInt8LegacyCalibrator",
}


def stand_ins() -> Any:
    return SimpleNamespace(**{name: type(name, (), {}) for name in CLASSES.values()})


@pytest.mark.parametrize("algorithm", CLASSES)
def test_each_algorithm_is_a_class_of_every_release_that_has_calibrators(algorithm: str) -> None:
    trt = stand_ins()
    made = make_calibrator(trt, algorithm, None, batch=2, next_batch=lambda: None)  # type: ignore[arg-type]
    assert isinstance(made, getattr(trt, CLASSES[algorithm]))
    having = [release for release, classes in read_api().items() if CLASSES[algorithm] in classes]
    assert having == WITH_CALIBRATORS


def test_batches_go_by_address_until_there_are_no_more() -> None:
    addresses = iter([4096, 8192])
    kept: list[bytes] = []
    made = make_calibrator(
        stand_ins(), "minmax", None, batch=3, next_batch=lambda: next(addresses, None), keep=kept.append
    )
    assert made.get_batch_size() == 3
    assert made.read_calibration_cache() is None
    assert [made.get_batch(["images"]) for _ in range(3)] == [[4096], [8192], None]
    made.write_calibration_cache(memoryview(b"TRT-8601-MinMaxCalibration\n"))
    assert kept == [b"TRT-8601-MinMaxCalibration\n"]


def test_a_percentile_is_the_legacy_calibrators_quantile() -> None:
    made = make_calibrator(stand_ins(), "percentile", 99.9, batch=1, next_batch=lambda: None)
    assert made.get_quantile() == pytest.approx(0.999)
    assert made.get_regression_cutoff() == 1.0
    assert made.read_histogram_cache(0) is None
    made.write_histogram_cache(None, 0)


def test_a_cache_alone_tells_when_it_was_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "scales.cache"
    path.write_bytes(CACHE)
    made = cached_calibrator(stand_ins(), CalibrationCache(path, "entropy"))
    assert made.read_calibration_cache() == path.read_bytes()
    assert not made.was_asked
    assert made.get_batch(["images"]) is None
    assert made.was_asked


# From frames to an engine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", WITH_CALIBRATORS)
@pytest.mark.parametrize("algorithm", CLASSES)
def test_a_calibration_and_the_build_from_it(
    float_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, algorithm: str
) -> None:
    gpu = SimpleNamespace(
        alloc=lambda _: SimpleNamespace(pointer=4096, free=lambda: None),
        upload=lambda _block, batch: shown.append(batch.shape),
        synchronize=lambda: None,
        close=lambda: None,
    )
    monkeypatch.setattr(cuda, "Cuda", lambda: gpu)
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: Gpu("NVIDIA H200", "9.0", "580.0", 141 << 30, "GPU-1"))
    monkeypatch.setattr(tensorrt, "trtexec_version", lambda: None)
    trt = make_module(release)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    flags: list[set[str]] = []
    shown: list[tuple[int, ...]] = []

    def build(_logger: Any, _network: Any, config: Any) -> bool:
        """As TensorRT does: takes the cache, or all batches and hands one over."""
        flags.append(set(trt._told.flags))
        trt._told.flags.clear()
        calibrator = config.int8_calibrator
        if calibrator.read_calibration_cache() is None:
            while calibrator.get_batch(["images"]):
                pass
            calibrator.write_calibration_cache(memoryview(CACHE))
        return True

    trt._told.on_build = build
    toolchain = {"backend": "tensorrt", "version": release, "gpu": "NVIDIA H200", "compute_capability": "9.0"}
    photographs = [f"package:skimage/data/{name}.png" for name in ("astronaut", "coffee", "chelsea")]
    params = {"source": photographs, "frames": 3, "batch": 2, "algorithm": algorithm, "toolchain": toolchain}
    files = [tmp_path / "r112.cache", tmp_path / "r112.json"]
    calibrate(float_graphs, *files, params, {})
    assert shown == [(2, 3, 112, 112)] * 2
    assert trt._told.calibration_profile["images"] == ((2, 3, 112, 112),) * 3
    assert trt._told.level == 0

    def build_with(calibration: CalibrationCache | None) -> EngineRecord:
        task = Task.of(
            float_graphs,
            tmp_path / "store/vision-encoder_int8.engine",
            batch=4,
            precision="fp16",
            toolchain=toolchain,
            settings={},
            calibration=calibration,
        )
        return build_engine(task, code="", cache=tmp_path / "cache")

    scales = open_cache([str(file) for file in files], float_graphs, release)
    assert scales is not None
    record = build_with(scales)
    assert flags == [{"INT8"}, {"INT8", "FP16"}]
    assert (record.quantize, record.precision) == ("int8", "fp16")
    assert record.calibration_key == CalibratorRecord.read(files[1]).key
    assert record.inputs[0].dtype == "float16"

    # A calibrator that was corrected: other scales of the same images and graph, and so another engine.
    corrected = tmp_path / "corrected.cache"
    corrected.write_bytes(scales.path.read_bytes().replace(b": 3c", b": 3d"))
    assert corrected.read_bytes() != scales.path.read_bytes()
    assert build_with(replace(scales, path=corrected)).cache_key != record.cache_key


@pytest.mark.parametrize("release", WITH_CALIBRATORS)
def test_a_classifier_is_calibrated_alike(
    classifier_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    """Another family, whose pictures are cropped: the graph says how."""
    test_a_calibration_and_the_build_from_it(classifier_graph, tmp_path, monkeypatch, release, "entropy")
    found = CalibratorRecord.read(tmp_path / "r112.json")
    assert (found.preprocessing.fit, found.preprocessing.crop) == ("crop", 0.95)


@pytest.fixture(scope="module")
def classifier_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's smallest ResNet at 112, in float32."""
    path = tmp_path_factory.mktemp("classifier") / "model_fp32.onnx"
    locked = exporter("classifier", "checkpoint").lock("test_resnet")
    export_graph("model", locked, path, axes={"resolution": 112})
    return path
