"""Layer lists as TensorRT's inspector writes them, and what is read from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sam3_runtime.engines.building.inspector import (
    Inspection,
    inspect_layers,
    parse_layers,
    report_layers,
)
from sam3_runtime.records.records import Layers


def tensor(said: str, field: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [8, 576, 1024], field: said}


def layer(name: str, kind: str, said: str, metadata: str = "", **more: Any) -> dict[str, Any]:
    ends = {"Inputs": [tensor(said)], "Outputs": [tensor(said)]}
    return {"Name": name, "LayerType": kind, **ends, "TacticName": "", "StreamId": 0, "Metadata": metadata, **more}


FP32, FP16, INT8 = "Row major linear FP32", "Row major linear FP16 format", "Thirty-two wide channel vectorized row major Int8 format"  # fmt: skip  # noqa: E501

# TensorRT 8.6: a convolution with weights, a copy, a block whose inside is hidden, an island's element-wise layers.
EIGHT = [
    layer(
        "patch_embed/Conv",
        "CaskConvolution",
        FP16,
        "[ONNX Layer: patch_embed/Conv]",
        Weights={"Type": "Int8", "Count": 9},
    ),
    layer(
        "Reformatting CopyNode for Input Tensor 0 to patch_embed/Conv",
        "Reformat",
        FP16,
        "[ONNX Layer: patch_embed/Conv]",
    ),
    layer("{ForeignNode[Reshape...neck/Conv]}", "Myelin", FP16, "[ONNX Layer: a/MatMul]\x1e[ONNX Layer: neck/Conv]"),
    layer("Sub + Div", "PointWiseV2", FP32),
    layer("PWN(Mul)", "PointWiseV2", FP16, "[ONNX Layer: Mul]"),
]
# TensorRT 10: what was hidden is a list of kernels.
TEN = [
    layer("__myl_Res_myl0_1", "kgen", FP16, "[ONNX Layer: Reshape]"),
    layer("a/MatMul_myl0_2", "gemm", "Int8", "[ONNX Layer: a/MatMul]\x1e[ONNX Layer: a/Add]"),
    layer("_gemm_mha_v2_myl0_3", "kgen", FP16, "[ONNX Layer: attn/MatMul]\x1e[ONNX Layer: attn/MatMul_2]"),
    layer("neck/Conv", "CaskConvolution", "Half", "[ONNX Layer: neck/Conv]"),
]
PRODUCTS = {"patch_embed/Conv": 9, "a/MatMul": 100, "neck/Conv": 41, "attn/MatMul": 0, "attn/MatMul_2": 0}


def inspected(entries: list[Any], *islands: str) -> Inspection:
    return inspect_layers(parse_layers(json.dumps({"Layers": entries, "Bindings": []})), PRODUCTS, islands)


def read(entries: list[Any], *islands: str) -> Layers:
    return inspected(entries, *islands).layers


def test_what_86_shows_and_what_it_hides() -> None:
    found = read(EIGHT, "Sub", "Div", "Mul", "folded")
    assert found.count == 5
    assert found.types == {"float16": 2, "float32": 1, "unknown": 1}
    assert found.work == {"int8": 9, "unknown": 141}
    assert (found.attention, found.reformats, found.opaque) == (0, 1, 1)
    assert found.narrowed == ("Mul",)
    assert found.eight_bit_share is None


def test_what_10_shows() -> None:
    found = read(TEN)
    assert found.work == {"float16": 41, "int8": 100, "unknown": 9}
    assert found.attention == 1
    assert found.eight_bit_share == pytest.approx(100 / 141)
    assert inspected(TEN).products == {"float16": 3, "int8": 1, "unknown": 1}


HIDDEN = "N/A due to dynamic shapes"
KERNELS = {
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize256x128x64": "int8",
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw": "int8",
    "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1": "float16",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "bfloat16",
    "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128": "fp8",
    "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize64x64": "float32",
    "ampere_h16816gemm_64x64_ldg8_nn_v1": "unknown",
    "": "unknown",
}
"""As NVIDIA's guides and issues have them; the last tells nothing that this version reads."""


@pytest.mark.parametrize(("kernel", "kind"), KERNELS.items())
def test_a_kernels_name_tells_what_86_does_not(kernel: str, kind: str) -> None:
    """With dynamic shapes 8.6 has no type at the ends of a layer."""
    entry = layer("patch_embed/Conv", "CaskConvolution", HIDDEN, TacticName=kernel)
    assert read([entry]).work == ({kind: 9, "unknown": 141} if kind != "unknown" else {"unknown": 150})
    weighted = layer("patch_embed/Conv", "CaskConvolution", HIDDEN, TacticName=kernel, Weights={"Type": "Half"})
    assert read([weighted]).work["float16"] == 9


def test_a_block_is_not_of_the_type_of_its_ends() -> None:
    """Nothing is known of its inside, whatever enters it and leaves it."""
    for kernel in ("", "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_"):
        block = layer(
            "{ForeignNode[Reshape...neck/Conv]}", "Myelin", FP16, "[ONNX Layer: neck/Conv]", TacticName=kernel
        )
        assert read([block]).work == {"unknown": 150}


def test_islands_that_cannot_be_seen_are_counted() -> None:
    """None is said to be narrowed of an engine that tells no type: that is not to say that they hold."""
    dark = [
        layer("Sub + Div", "PointWiseV2", HIDDEN),
        layer("{ForeignNode[a...b]}", "Myelin", FP16, "[ONNX Layer: Sqrt]"),
        layer("PWN(Mul)", "PointWiseV2", FP32, "[ONNX Layer: Mul]"),
    ]
    islands = ("Sub", "Div", "Sqrt", "Mul", "absent")
    assert read(dark, *islands).narrowed == ()
    assert inspected(dark, *islands).unseen == ["Div", "Sqrt", "Sub", "absent"]
    assert report_layers(inspected(dark, *islands))[-1].startswith("4 nodes must run in float32")


@pytest.mark.parametrize("field", ["Datatype", "DataType"])
def test_11_has_a_field_for_the_type_alone(field: str) -> None:
    both = {"Name": "t", "Format": "Row major linear FP32 format (kLINEAR)", field: "Half"}
    entry = {"Name": "neck/Conv", "LayerType": "Convolution", "Inputs": [both], "Outputs": [both]}
    assert read([entry]).types == {"float16": 1}


@pytest.mark.parametrize(
    ("said", "kind"),
    [(FP32, "float32"), (FP16, "float16"), (INT8, "int8"), ("Half", "float16"), ("Float", "float32"),
     ("BF16", "bfloat16"), ("Row major linear BFloat16 format", "bfloat16"), ("FP8", "fp8"), ("Int32", "int32"),
     ("Row major INT64", "int64"),
     ("Bool", "bool"), ("N/A due to dynamic shapes.", "unknown")],
)  # fmt: skip
def test_types_by_any_of_their_names(said: str, kind: str) -> None:
    assert parse_layers(json.dumps({"Layers": [layer("x", "PointWise", said)]}))[0].outputs == (kind,)


def test_an_engine_without_details_has_names_alone() -> None:
    found = read(["patch_embed/Conv", "neck/Conv + relu"])
    assert found.count == 2
    assert found.work == {"unknown": 150}
    assert read([]).count == 0


def test_metadata_with_raw_control_characters_is_read() -> None:
    text = json.dumps({"Layers": TEN}).replace("\\u001e", "\x1e")
    assert "\x1e" in text
    assert parse_layers(text)[1].nodes == {"a/MatMul", "a/Add"}


def test_what_is_no_layer_list_is_refused() -> None:
    for text in ("", "{", "[]", '{"Bindings": []}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_layers(text)


def test_for_people() -> None:
    lines = report_layers(inspected(EIGHT, "Mul"))
    assert (
        "5 layers (float16 2, float32 1, not reported by this TensorRT: 1), 0 fused attentions, 1 reformat, 1 block "
        in lines[0]
    )
    assert lines[1] == "matrix work: int8 6%, not reported by this TensorRT: 94%"
    assert lines[2] == "WARNING: float32 was asked for and is not used in Mul"
    assert len(report_layers(inspected(TEN))) == 2
