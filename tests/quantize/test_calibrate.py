"""TensorRT's calibration, with a fake TensorRT that requests batches and returns a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnx.checker")

from sam3_runtime.core.errors import BuildError, CalibrationError
from sam3_runtime.engines.building import Task, tensorrt
from sam3_runtime.engines.building.tensorrt_messages import OutOfMemory
from sam3_runtime.engines.running import cuda
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.media.sources import load_image
from sam3_runtime.quantize import calibrate as module
from sam3_runtime.quantize.calibrate import calibrate, float_tensors
from sam3_runtime.quantize.calibration_cache import CalibratorRecord, open_cache
from sam3_runtime.records.records import Preprocessing

pytestmark = pytest.mark.usefixtures("gpu", "trt")

PHOTOGRAPHS = [f"package:skimage/data/{name}" for name in ("astronaut.png", "coffee.png", "chelsea.png")]
VERSION = "8.6.1"
CACHE = b"TRT-8601-EntropyCalibration2\nimages: 3c010204\nc: 3d000000\n"
CLASSES = ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "IInt8LegacyCalibrator")


class Gpu:
    """A fake ``Cuda`` that keeps what was uploaded."""

    def __init__(self) -> None:
        self.uploaded: list[np.ndarray[Any, Any]] = []
        self.closed = False

    def alloc(self, size: int) -> Any:
        self.size = size
        return SimpleNamespace(pointer=4096, free=lambda: None)

    def upload(self, _block: Any, array: np.ndarray[Any, Any]) -> None:
        assert array.nbytes == self.size
        self.uploaded.append(array.copy())

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Calibration:
    """A fake TensorRT: takes all batches, then writes ``cache``; runs ``before`` first, which may raise."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.batch = 0
        self.cache: bytes | None = CACHE
        self.zeros: frozenset[str] = frozenset()
        self.before: Callable[[], None] = lambda: None

    def __call__(
        self, task: Task, make: Callable[[Any], Any], batch: int, is_done: Callable[[], bool]
    ) -> frozenset[str]:
        self.task, self.batch = task, batch
        self.before()
        calibrator = make(SimpleNamespace(**{name: type(name, (), {}) for name in CLASSES}))
        assert calibrator.read_calibration_cache() is None
        while calibrator.get_batch(["images"]):
            assert not is_done()
        if self.cache is not None:
            calibrator.write_calibration_cache(memoryview(self.cache))
            assert is_done()
        return self.zeros


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    found = Gpu()
    monkeypatch.setattr(cuda, "Cuda", lambda: found)
    return found


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Calibration:
    found = Calibration()
    monkeypatch.setattr(tensorrt, "calibrate", found)
    return found


def run(graph: Path, folder: Path, logged: list[str] | None = None, **changes: Any) -> list[Path]:
    files = [folder / "r8_entropy.cache", folder / "r8_entropy.json"]
    toolchain = {"backend": "tensorrt", "version": VERSION}
    params = {"source": PHOTOGRAPHS, "frames": 3, "batch": 2, "algorithm": "entropy", "toolchain": toolchain} | changes
    calibrate(graph, *files, params, {"workspace_mib": 1024}, [].append if logged is None else logged.append)
    return files


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "onnx" not in path.name)


def test_what_is_measured_is_what_the_runtime_would_see(small_graph: Path, tmp_path: Path, gpu: Gpu) -> None:
    run(small_graph, tmp_path)
    seen = preprocess([load_image(name) for name in PHOTOGRAPHS], 8, Preprocessing())
    np.testing.assert_array_equal(np.concatenate(gpu.uploaded), seen[[0, 1, 2, 0]])  # the last batch is filled up
    assert gpu.closed


def test_the_calibration_build_is_one_of_a_float32_graph_at_the_batch(
    small_graph: Path, tmp_path: Path, trt: Calibration
) -> None:
    run(small_graph, tmp_path)
    assert trt.task is not None
    assert (trt.task.precision, trt.task.settings, trt.batch) == ("fp32", {"workspace_mib": 1024}, 2)
    assert vars(trt.task.ranges["B"]) == {"min": 2, "opt": 2, "max": 2}


def test_the_report_says_what_it_holds_for_and_what_is_missing(small_graph: Path, tmp_path: Path) -> None:
    cache, report = run(small_graph, tmp_path)
    assert cache.read_bytes() == CACHE
    record = CalibratorRecord.read(report)
    assert (record.frames, record.batch, record.tensorrt) == (3, 2, VERSION)
    assert record.header == "TRT-8601-EntropyCalibration2"
    assert record.scales == {"images": pytest.approx(1 / 127, rel=1e-3), "c": 0.03125}
    assert set(record.missing) == {"ab", "up"}
    assert record.onnx_sha256 == read_graph(small_graph).sha256
    found = open_cache([str(cache), str(report)], small_graph, VERSION)
    assert found is not None
    assert found.key == record.key


def test_a_line_of_infinity_is_no_scale(
    small_graph: Path, tmp_path: Path, trt: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.cache = CACHE + b"ab: 7f800000\nof zeros: 7f800000\n"
    trt.zeros = frozenset({"of zeros"})
    cache, report = run(small_graph, tmp_path)
    record = CalibratorRecord.read(report)
    assert set(record.scales) == {"images", "c"}
    assert set(record.failed) == {"ab", "of zeros"}
    assert "TensorRT reported" in record.failed["of zeros"]
    assert record.missing == ("up",), "what has a line was measured"
    assert cache.read_bytes() == trt.cache, "TensorRT's own file stays as it is"
    logged = capsys.readouterr().out
    assert "2 tensors got a scale\n" in logged
    assert f"1 without one ({record.failed['ab']}): ab\n" in logged


def test_a_cache_without_any_scale_is_an_error(small_graph: Path, tmp_path: Path, trt: Calibration) -> None:
    trt.cache = b"TRT-8601-EntropyCalibration2\nimages: 7f800000\nc: 7f800000\n"
    with pytest.raises(CalibrationError, match=r"no scale for any tensor of .*infinite"):
        run(small_graph, tmp_path)
    assert left_behind(tmp_path) == []


def test_the_same_frames_give_the_same_key(small_graph: Path, tmp_path: Path) -> None:
    key = CalibratorRecord.read(run(small_graph, tmp_path)[1]).key
    assert CalibratorRecord.read(run(small_graph, tmp_path)[1]).key == key
    assert CalibratorRecord.read(run(small_graph, tmp_path, frames=2)[1]).key != key
    assert CalibratorRecord.read(run(small_graph, tmp_path, algorithm="minmax")[1]).key != key


def test_fewer_frames_than_asked_are_used_and_logged(small_graph: Path, tmp_path: Path) -> None:
    logged: list[str] = []
    record = CalibratorRecord.read(run(small_graph, tmp_path, logged, frames=50, batch=8)[1])
    assert (record.frames, record.frames_asked, record.batch) == (3, 50, 3)
    assert "has 3 of the 50 frames" in logged[-1]


def test_how_long_it_takes_is_logged_after_the_first_batch(small_graph: Path, tmp_path: Path) -> None:
    logged: list[str] = []
    run(small_graph, tmp_path, logged, batch=1)
    assert len(logged) == 1
    assert logged[0].startswith("calibration by TensorRT: about ")
    assert "(1 of 3 frames done)" in logged[0]


def test_computed_float_tensors_are_counted_and_weights_are_not(small_graph: Path) -> None:
    model = onnx.load(small_graph, load_external_data=False)
    whole = onnx.shape_inference.infer_shapes(model)
    onnx.save(whole, small_graph)
    found = float_tensors(small_graph)
    assert found[0] == "images"
    assert {"map", "tokens", "a", "ab"} < set(found)
    assert not {"stem.weight", "shape", "c.bias"} & set(found)


# What goes wrong --------------------------------------------------------------------------------------------------


def test_a_folder_without_images_fails_before_anything_is_built(
    small_graph: Path, tmp_path: Path, trt: Calibration
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CalibrationError, match="contains no image"):
        run(small_graph, tmp_path, source=[str(empty)])
    assert trt.task is None
    assert left_behind(tmp_path) == ["empty"]


def test_a_damaged_frame_ends_the_calibration_with_its_name_and_no_file(
    small_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu
) -> None:
    monkeypatch.setattr(module, "_THREADS", 1)  # so that the calibration has begun by then
    (tmp_path / "picture.jpg").write_text("hello")
    with pytest.raises(CalibrationError, match="it contains text"):
        run(small_graph, tmp_path, source=[*PHOTOGRAPHS, str(tmp_path / "picture.jpg")], frames=4, batch=1)
    assert left_behind(tmp_path) == ["picture.jpg"]
    assert gpu.closed


def test_no_frame_is_lost_to_the_error_that_tensorrt_makes_of_it(
    small_graph: Path, tmp_path: Path, trt: Calibration, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the transfer failed")

    def refuses(*arguments: Any) -> None:
        trt(*arguments)
        raise BuildError("Calibration failure occurred with no scaling factors detected")

    monkeypatch.setattr(gpu, "upload", broken)
    monkeypatch.setattr(tensorrt, "calibrate", refuses)
    trt.cache = None
    with pytest.raises(RuntimeError, match="the transfer failed"):
        run(small_graph, tmp_path)
    assert left_behind(tmp_path) == []


def test_out_of_memory_names_the_batch(small_graph: Path, tmp_path: Path, trt: Calibration) -> None:
    def full() -> None:
        raise OutOfMemory("TensorRT 8.6.1 ran out of memory")

    trt.before = full
    with pytest.raises(CalibrationError, match=r"out of memory\nHint: set a smaller `calibration: \{batch"):
        run(small_graph, tmp_path)


@pytest.mark.parametrize(("cache", "message"), [(None, "wrote no calibration cache"), (b"nonsense", "begins with TRT")])
def test_no_cache_or_another_file_is_an_error_and_leaves_nothing(
    small_graph: Path, tmp_path: Path, trt: Calibration, cache: bytes | None, message: str
) -> None:
    trt.cache = cache
    with pytest.raises(CalibrationError, match=message):
        run(small_graph, tmp_path)
    assert left_behind(tmp_path) == []


def test_a_float16_graph_is_refused(small_graph: Path, tmp_path: Path) -> None:
    model = onnx.load(small_graph, load_external_data=False)
    model.metadata_props.add(key="precision", value="fp16")
    onnx.save(model, small_graph)
    with pytest.raises(CalibrationError, match="is fp16: calibrators take float32"):
        run(small_graph, tmp_path)
