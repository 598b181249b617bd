"""INT8 and FP8 in float16 graphs: scales in float16, opset 19, and what is lost where every result is rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("transformers")

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.families.sam3.export.checkpoint import lock as make_lock
from sam3_runtime.families.sam3.export.graph import build_module, export_part
from sam3_runtime.families.sam3.export.losses import loss
from sam3_runtime.families.sam3.export.rounded import RoundedGraph
from sam3_runtime.graphs.read import QuantizeName, read_graph
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.media.sources import load_image
from sam3_runtime.quantize.collect import measure_scales
from sam3_runtime.quantize.insert import FORMATS, quantize_graph
from sam3_runtime.quantize.record import Calibration
from sam3_runtime.records.records import Preprocessing
from tests.quantize.conftest import Calibrate, calibration_of

RESOLUTION = 168
PHOTOGRAPHS = [f"package:skimage/data/{name}" for name in ("astronaut.png", "coffee.png")]
FORMAT_NAMES: tuple[QuantizeName, ...] = ("int8", "fp8")
ELEMENT_TYPES = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
SMALLEST_COSINE = {"int8": 0.99, "fp8": 0.98}


# Scales, on a graph of a few layers -------------------------------------------------------------------------------


@pytest.fixture
def half_graph(small_graph: Path) -> Path:
    """The small graph in float16."""
    model = onnx.load(small_graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    small_graph.with_name(small_graph.name + ".data").unlink()
    onnx.save(model, small_graph, save_as_external_data=True, location=small_graph.name + ".data", size_threshold=75)
    return small_graph


def quantized(graph: Path, scales: Path, form: QuantizeName, name: str = "out.onnx") -> Any:
    output = graph.with_name(name)
    quantize_graph(graph, scales, output, exclude=[], quantize=form)
    return onnx.load(output, load_external_data=False)


def scales_of(model: Any) -> dict[str, Any]:
    return {
        tensor.name.removesuffix("/scale"): numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith("/scale")
    }


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_scales_are_float16_and_hold_their_range(half_graph: Path, calibrate: Calibrate, form: QuantizeName) -> None:
    model = quantized(half_graph, calibrate(stem=1.0, a=4.1, b=4.1, c=1e-4), form)
    scales, largest = scales_of(model), FORMATS[form].largest
    assert [entry.version for entry in model.opset_import] == [19]
    assert model.ir_version == 9
    assert {scale.dtype for scale in scales.values()} == {np.dtype(np.float16)}
    assert all((scale > 0).all() for scale in scales.values())
    for name, amax in (("images", 1.0), ("tokens", 4.1), ("a", 1e-4)):
        assert amax <= float(scales[name]) * largest <= amax * 1.001 + largest * 2**-24
    zero_points = {t.data_type for t in model.graph.initializer if t.name.endswith("/zero_point")}
    assert zero_points == {ELEMENT_TYPES[form]}


def test_int8_weights_have_a_scale_a_channel_and_fp8_weights_one(half_graph: Path, calibrate: Calibrate) -> None:
    shapes = {form: scales_of(quantized(half_graph, calibrate(), form))["a.weight"].shape for form in FORMAT_NAMES}
    assert shapes == {"int8": (6,), "fp8": ()}


def test_fp8_in_a_float32_graph_has_float32_scales(small_graph: Path, calibrate: Calibrate) -> None:
    model = quantized(small_graph, calibrate(), "fp8")
    assert {scale.dtype for scale in scales_of(model).values()} == {np.dtype(np.float32)}
    assert model.opset_import[0].version == 19


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_twice_gives_the_same_bytes(half_graph: Path, calibrate: Calibrate, form: QuantizeName) -> None:
    scales = calibrate()
    for name in ("one.onnx", "two.onnx"):
        quantized(half_graph, scales, form, name)
    assert half_graph.with_name("one.onnx").read_bytes() == half_graph.with_name("two.onnx").read_bytes()


def test_an_operator_with_another_meaning_in_opset_19_is_refused(half_graph: Path) -> None:
    model = onnx.load(half_graph)
    model.graph.node.append(helper.make_node("ReduceLogSum", ["c"], ["mean"], name="mean", axes=[1]))
    model.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT16, [None, 1]))
    onnx.save(model, half_graph)
    scales = half_graph.with_name("scales.json")
    calibration_of(read_graph(half_graph).sha256, {"a": 1.0}).write(scales)
    with pytest.raises(CalibrationError, match="mean: ReduceLogSum has another meaning in opset 19"):
        quantized(half_graph, scales, "int8")


# The demo checkpoint's encoder ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The float16 graph, and its 8-bit forms from one calibration."""
    folder = tmp_path_factory.mktemp("onnx")
    lock, graph = make_lock(str(demo_checkpoint)), folder / "vision-encoder.onnx"
    export_part("vision-encoder", lock, graph, resolution=RESOLUTION, precision="fp16")
    scales = folder / "r168.json"
    measure_scales(lock, graph, scales, {"source": PHOTOGRAPHS, "frames": 2, "algorithm": "minmax"})
    for form in FORMAT_NAMES:
        quantize_graph(graph, scales, folder / f"vision-encoder_{form}.onnx", exclude=[], quantize=form)
    assert Calibration.read(scales).key == read_graph(folder / "vision-encoder_fp8.onnx").calibration_key
    return lambda suffix: folder / f"vision-encoder{suffix}.onnx"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(preprocess([load_image(name) for name in PHOTOGRAPHS], RESOLUTION, Preprocessing()))


@pytest.fixture(scope="module")
def exact(demo_checkpoint: Path, images: torch.Tensor) -> list[Any]:
    """What float32 PyTorch says."""
    module = build_module("vision-encoder", make_lock(str(demo_checkpoint)), resolution=RESOLUTION)
    with torch.no_grad():
        return [level.numpy() for level in module(images)]


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_features_are_nearly_the_same(encoder: Any, images: Any, exact: list[Any], form: QuantizeName) -> None:
    """Every result rounded, to 8 bits where the graph says so: ONNX Runtime's CPU would keep float32 in between."""
    facts = read_graph(encoder(f"_{form}"))
    assert (facts.quantize, facts.precision, facts.opset) == (form, "fp16", 19)
    got = RoundedGraph(encoder(f"_{form}"))({"images": images})
    plain = RoundedGraph(encoder(""))({"images": images})
    assert list(got) == ["fpn_feat_0", "fpn_feat_1", "fpn_feat_2", "fpn_pos_2"]
    for (name, level), wanted in zip(got.items(), exact, strict=True):
        assert level.dtype == np.float16
        assert 1 - loss(level, wanted)["cosine_loss"] > SMALLEST_COSINE[form], name
        if name != "fpn_pos_2":
            assert loss(level, wanted)["cosine_loss"] > 10 * loss(plain[name], wanted)["cosine_loss"]


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_onnx_runtime_runs_it(encoder: Any, images: Any, form: QuantizeName) -> None:
    options = ort.SessionOptions()
    # Its optimiser moves an FP8 DequantizeLinear behind a Transpose, which it cannot run in FP8.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(encoder(f"_{form}")), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    got = dict(zip(names, session.run(names, {"images": images.numpy().astype(np.float16)}), strict=True))
    rounded = RoundedGraph(encoder(f"_{form}"))({"images": images})
    assert list(rounded) == names == ["fpn_feat_0", "fpn_feat_1", "fpn_feat_2", "fpn_pos_2"]
    for name in names:
        assert loss(got[name], rounded[name])["cosine_loss"] < 0.01, name


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_tensorrt_rtx_takes_it(encoder: Any, form: QuantizeName) -> None:
    """Its parser and its compiler, for Ada and Blackwell, strongly typed: no GPU is needed."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed here")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(encoder(f"_{form}"))), [
        str(parser.get_error(i)) for i in range(parser.num_errors)
    ]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("images", *[(size, 3, RESOLUTION, RESOLUTION) for size in (1, 2, 2)])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 2
    for place, name in enumerate(("SM89", "SM120")):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    assert builder.build_serialized_network(network, config) is not None
