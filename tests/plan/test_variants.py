"""variants.yaml: names in both directions, matrices, and one message for each wrong value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3_runtime.core.errors import VariantsError
from sam3_runtime.families.sam3.parts import ModelDims
from sam3_runtime.plan.variants import Variant, parse, read

PROJECT = Path(__file__).resolve().parents[2]
positive = st.integers(1, 9999)


@given(positive, positive, positive, st.sampled_from(["none", "int8", "fp8"]))
def test_a_name_and_its_variant_are_inverse(batch: int, queries: int, resolution: int, quantize: str) -> None:
    variant = Variant((batch, queries, resolution), quantize)  # type: ignore[arg-type]
    assert Variant.from_name(variant.name) == variant


@pytest.mark.parametrize("name", ["b8_q50_r672_int4", "b08_q50_r672", "b8-q50-r672", "q50_b8_r672", "b8_q50_r672_", ""])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(VariantsError, match="not the name of a variant"):
        Variant.from_name(name)


def test_a_matrix_is_every_combination_in_order() -> None:
    found = parse("variants:\n  - {batch: [4, 8], resolution: [672, 560], quantize: [none, int8]}\n").variants
    assert list(found) == [
        f"b{batch}_q50_r{resolution}{suffix}"
        for batch in (4, 8)
        for resolution in (672, 560)
        for suffix in ("", "_int8")
    ]


def test_defaults_fill_what_a_matrix_leaves_out() -> None:
    assert list(parse("defaults: {batch: 2, queries: 7, resolution: 560}\nvariants: [{}]").variants) == ["b2_q7_r560"]
    assert list(parse("variants: [{}]").variants) == ["b8_q50_r1008"]


def test_the_projects_own_file_is_that_of_the_readme() -> None:
    found = parse(read(PROJECT / "variants.yaml"))
    assert {"b8_q50_r1008", "b8_q50_r560", "b8_q200_r840", "b8_q50_r1008_int8"} <= set(found.variants)


WRONG = {
    "": "is empty",
    "# only a comment\n": "is empty",
    "variants:\n\t- {resolution: 1008}\n": r":2: a tab",
    "variants: [{resolution: 1000}]": r":1: .*resolution 1000 .*\n.*994 and 1008",
    "variants:\n  - {resolution: 672}\n  - {batch: '8'}": r":3: variants\[1\]\.batch: '8' is text.* 8",
    "variants: [{resolution: [840, '672']}]": r"resolution\[1\]: '672' is text",
    "variants:\n  - {batch: 0}": r":2: variants\[0\]\.batch: 0 is too small\n.*at least 1",
    "variants: [{resolution: -14}]": "-14 is too small",
    "variants: [{resolution: 1008.5}]": "1008.5",
    "variants: [{batch: true}]": "true is not a number",
    "variants: [{resolutoin: 672}]": r"unknown key 'resolutoin'\n.*'resolution'",
    "varients: []": r"unknown key 'varients'\n.*'variants'",
    "gate: {float: {mask_io: 1}}\nvariants: [{}]": "did you mean 'mask_iou'",
    "variants: []": "the list is empty",
    "variants: [{resolution: []}]": "lists no value",
    "variants: 3": "variants: 3",
    "variants: [3]": "expected keys",
    "model: facebook/sam3\nvariants: [{}]": "expected keys",
    "backend: cuda\nvariants: [{}]": "'cuda' is not known",
    "model: {}": "`variants` is missing",
    "variants: [{queries: 201}]": r"queries 201 is more than the model's 200\n.*200 or fewer",
    "variants: [{quantize: int4}]": "'int4' is not known",
    "variants: [{quantize: fp8}]": "fp8 needs",
    "variants:\n  - {resolution: [840, 672]}\n  - {resolution: 672}": r":3: .*b8_q50_r672 again \(first: line 2\)",
    "variants: [{resolution: 840}]\nvariants: []": r":2: the key 'variants' appears twice \(first on line 1\)",
    "variants: [{batch: 1, batch: 2}]": "'batch' appears twice",
    "precision: fp16\nbackend: onnxruntime\nvariants: [{}]": "the backend onnxruntime does not build precision fp16",
    "precision: {encoder: fp16}\nvariants: [{}]": "encoder",
    "calibration: {method: calibrator}\nvariants: [{}]": "use `method: qdq`",
    "backend: tensorrt\ncalibration: {method: calibrator}\nvariants: [{quantize: fp8}]": (
        r":2: .*measures int8 alone, and b8_q50_r1008_fp8 asks for fp8"
    ),
    "backend: tensorrt\ncalibration: {method: calibrator, exclude: [neck.*]}\nvariants: [{}]": (
        r"exclude names 'neck\.\*'"
    ),
    "a: [1\nb: 2": "not valid YAML",
    "variants: [1\n": r":2: not valid YAML: .*\nHint: something is open where the file ends",
    "variants:\n  - {resolution: 0224}": r":2: 0224 is read as 148 in YAML\n.*224 if it is a number",
    "variants: [{resolution: 0896}]": r"'0896' is text; .* without quotes: 896",
    "variants: [{resolution: [12:30]}]": r"12:30 is read as 750",
    "gate: {int8: {ap_loss: .inf}}\nvariants: [{}]": r":1: gate\.int8\.ap_loss: inf: .*finite",
    "gate: {int8: {ap_loss: .nan}}\nvariants: [{}]": r":1: gate\.int8\.ap_loss: nan",
    "gate: {int8: {agreement: .nan}}\nvariants: [{}]": r"agreement: nan",
    "calibration: {percentile: .nan}\nvariants: [{}]": r"percentile: nan",
    "variants:\n  - &a {batch: 2}\n  - {<<: *a, batch: 3, resolution: 671}": r":3: .*671 is not a multiple",
    "variants:\n  - &a\n    resolution: 671\n  - {<<: *a, batch: 3}": r":3: .*671 is not a multiple",
    "variants:\n  - &a {batch: 2, resolution: 672}\n  - {<<: *a}": r":3: .*b2_q50_r672 again \(first: line 2\)",
    "variants: [{<<: 3}]": r":1: not valid YAML: expected a mapping",
    "variants: &a [*a]": r"expected keys with values",
    "- 1": "expected sections",
    "!!python/object/apply:os.system ['true']": "not valid YAML",
    "build:\n  rtx: {gpus: [ada, hopper]}\nvariants: [{}]": (
        r":2: build\.rtx\.gpus\[1\]: 'hopper' is not a GPU generation.*\n.*turing, ampere, .*75, 80, 86, 89, 120, 121"
    ),
    "build: {rtx: {gpus: [9.0]}}\nvariants: [{}]": r"9\.0 is not a GPU generation",
    "build: {rtx: {gpus: []}}\nvariants: [{}]": r"gpus: the list is empty\n.*list at least one$",
    "build: {rtx: {gpu: [ada]}}\nvariants: [{}]": "did you mean 'gpus'",
    "backend: tensorrt-rtx\nbuild:\n  rtx: {gpus: [ampere, ada]}\nvariants: [{quantize: fp8}]": (
        r":3: build\.rtx\.gpus: b8_q50_r1008_fp8 asks for fp8, which Ampere \(8\.6\) cannot.*\n.*Ada \(8\.9\).*int8"
    ),
    "backend: onnxruntime\nvariants: [{quantize: fp8}]": "fp8, which the backend onnxruntime does not build",
}


def test_fp8_is_for_tensorrt_rtx_and_generations_that_have_it() -> None:
    assert list(parse("backend: tensorrt-rtx\nvariants: [{quantize: fp8}]").variants) == ["b8_q50_r1008_fp8"]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_gets_value_place_and_fix(text: str) -> None:
    with pytest.raises(VariantsError, match=f"(?s)variants.yaml.*{WRONG[text]}|{WRONG[text]}"):
        parse(text)


def test_merge_keys_take_values_over() -> None:
    text = "variants:\n  - &a {batch: 2, resolution: 672}\n  - &b {<<: *a, batch: 3}\n  - {<<: [*b, *a], queries: 60}\n"
    assert list(parse(text).variants) == ["b2_q50_r672", "b3_q50_r672", "b3_q60_r672"]


def test_numbers_in_other_forms_are_themselves() -> None:
    assert list(parse("variants: [{resolution: 0x3F0}, {resolution: 6_72, batch: +4}]").variants) == [
        "b8_q50_r1008", "b4_q50_r672",
    ]  # fmt: skip


def test_one_limit_changed_leaves_the_others_of_its_precision() -> None:
    gate = parse("gate: {int8: {agreement: 0.5}}\nvariants: [{}]").settings.gate
    assert (gate.int8.agreement, gate.int8.box_iou, gate.float.box_iou) == (0.5, 0.85, 0.95)


def test_the_checkpoints_own_dimensions_decide() -> None:
    small = ModelDims(patch=16, queries=100, image_size=512)
    assert list(parse("variants: [{}]", dims=small).variants) == ["b8_q50_r512"]
    with pytest.raises(VariantsError, match="multiple of the patch size 16"):
        parse("variants: [{resolution: 504}]", dims=small)


def test_a_local_checkpoint_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    config = {"vision_config": {"backbone_config": {"patch_size": 8, "image_size": 64}}}
    (tmp_path / "weights/config.json").write_text(json.dumps(config))
    text = "model: {checkpoint: weights}\nvariants: [{}]"
    assert list(parse(text, base=str(tmp_path)).variants) == ["b8_q50_r64"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b8_q50", "b8_q50_r1008"),
        ("b4", "b4_q50_r1008"),
        ("b8_q50_int8", "b8_q50_r1008_int8"),
        ("b8_q50_r658", "nearest listed one is b8_q50_r672"),
        ("b8_q50_r658", "- {batch: 8, queries: 50, resolution: 658}"),
        ("b8_q50_r672_int8", "- {batch: 8, queries: 50, resolution: 672, quantize: int8}"),
        ("b8_q50_r1000", "994 and 1008"),
        ("nonsense", "names look like"),
    ],
)
def test_an_unknown_variant_is_told_the_nearest_and_the_line(name: str, expected: str) -> None:
    known = parse("variants: [{resolution: [1008, 672]}]")
    with pytest.raises(VariantsError) as caught:
        known.get(name)
    assert expected in str(caught.value)


@given(st.dictionaries(st.sampled_from(["batch", "queries", "resolution"]), st.integers(1, 14).map(lambda n: n * 14)))
def test_the_line_to_add_adds_that_variant(values: dict[str, int]) -> None:
    variant = Variant((values.get("batch", 8), values.get("queries", 50), values.get("resolution", 672)))
    assert list(parse(f"variants:\n{variant.yaml_line}").variants) == [variant.name]


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(VariantsError, match="is missing"):
        read(tmp_path / "variants.yaml")
