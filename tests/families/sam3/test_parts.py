"""The contract: shapes, profiles and dimensions that follow from a checkpoint's configuration."""

from __future__ import annotations

import json
from pathlib import Path

from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.parts import MAX_BOXES, PARTS, ModelDims, fixed_dims
from sam3_runtime.families.sam3.spec import SAM3


def test_shapes_of_a_resolution() -> None:
    values = fixed_dims(ModelDims(), resolution=672, queries=50) | {"P": 3, "n": 7}
    outputs = {tensor.name: resolve(tensor.shape, values) for tensor in PARTS["decoder"].outputs}
    assert outputs["pred_masks"] == (3, 50, 192, 192)
    geometry = resolve(PARTS["geometry-encoder"].outputs[0].shape, values)
    assert geometry == (3, 8, 256)


def test_a_prompt_holds_at_most_sixty_tokens() -> None:
    assert ModelDims().max_prompt_tokens == 60
    ranges = SAM3.profile(PARTS["geometry-encoder"], ModelDims(), batch=8)
    assert (ranges["n"].min, ranges["n"].opt, ranges["n"].max) == (1, 8, MAX_BOXES)


def test_dimensions_of_both_layouts(demo_checkpoint: Path, video_checkpoint: Path) -> None:
    dims = [
        ModelDims.from_config(json.loads((path / "config.json").read_text()))
        for path in (demo_checkpoint, video_checkpoint)
    ]
    assert dims[0] == dims[1] == ModelDims(patch=14, window=8, queries=200, channels=64, text_tokens=32, image_size=336)


def test_what_the_configuration_leaves_out_is_facebook_sam3() -> None:
    assert ModelDims.from_config({"model_type": "sam3_video", "detector_config": {}}) == ModelDims()
