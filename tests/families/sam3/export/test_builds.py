"""The table of what building costs: what it is made of, and what is made of it. Builds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.families.sam3.export.builds import steps_of
from sam3_runtime.plan.planning import Plan, make_plan
from sam3_runtime.plan.variants import Variant


def plan_of(folder: Path, *variants: Variant) -> Plan:
    listed = "\n".join(variant.yaml_line for variant in variants)
    text = f"model: {{checkpoint: random}}\nbackend: tensorrt-rtx\nvariants:\n{listed}\n"
    (folder / "variants.yaml").write_text(text)
    return make_plan(folder / "variants.yaml", folder)


def test_the_steps_of_a_variant_in_order(tmp_path: Path) -> None:
    chosen, other = Variant((8, 50, 672), "fp8"), Variant((8, 50, 672))
    plan = plan_of(tmp_path, chosen, other)
    steps = steps_of(plan, chosen)
    assert {"onnx/text-encoder.onnx", "onnx/tokenizer.json", "onnx/r672/decoder_q50.onnx"} <= set(steps["export"])
    assert steps["quantize"] == ["calibration/r672.json", "onnx/r672/vision-encoder_fp8.onnx"]
    assert "engines/store/b8_r672/vision-encoder_fp8.engine" in steps["build"]
    assert steps["configure"] == ["engines/b8_q50_r672_fp8/config.json"]
    assert steps_of(plan, other)["quantize"] == []
