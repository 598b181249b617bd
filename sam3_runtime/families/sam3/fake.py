"""Outputs of the backend ``fake`` for SAM3: simple arithmetic on the inputs, for tests.

An image is represented by the mean of its pixels and a prompt by a value from its tokens; together they determine the
boxes and masks. So detections differ between images and between prompts, and do not depend on the rest of the batch:
tests of the pipeline detect swapped rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.engines.running.base import Array
from sam3_runtime.families.sam3.parts import BOX_PADDING_LABEL
from sam3_runtime.records.records import EngineRecord, TensorRecord


def outputs(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of the fake engine of ``record``, by name."""
    run = {"vision-encoder": _vision, "text-encoder": _text, "geometry-encoder": _geometry, "decoder": _decoder}
    return run[record.part](record, feeds)


def _vision(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    images = feeds["images"]
    values = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
    made = {spec.name: _filled(spec, values) for spec in record.outputs[:3]}
    return made | {"fpn_pos_2": np.zeros([int(size) for size in record.outputs[3].shape], np.float32)}


def _text(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    ids, mask = feeds["input_ids"], feeds["attention_mask"].astype(bool)
    positions = np.arange(1, ids.shape[1] + 1)
    values = ((ids * mask * positions).sum(axis=1) % 97 / 97).astype(np.float32)
    return {"text_features": _filled(record.outputs[0], values), "text_mask": mask}


def _geometry(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    boxes, valid = feeds["input_boxes"], feeds["input_boxes_labels"] != BOX_PADDING_LABEL
    weights = np.where(valid, feeds["input_boxes_labels"] + 1, 0)
    values = (boxes.sum(axis=2) * weights).sum(axis=1) + feeds["fpn_feat_2"][:, 0, 0, 0]
    tokens, channels = boxes.shape[1] + 1, int(record.outputs[0].shape[2])
    features = np.broadcast_to(values[:, None, None], (len(boxes), tokens, channels)).astype(np.float32)
    return {"geometry_features": features, "geometry_mask": np.pad(valid, ((0, 0), (0, 1)), constant_values=True)}


def _decoder(record: EngineRecord, feeds: Mapping[str, Array]) -> dict[str, Array]:
    features, mask = feeds["prompt_features"], feeds["prompt_mask"]
    prompt = (features[:, :, 0] * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    image = np.broadcast_to(feeds["fpn_feat_0"][:, 0, 0, 0], prompt.shape)
    rows, (_, queries, side, _) = len(prompt), (int(s) if i else 0 for i, s in enumerate(record.outputs[0].shape))
    boxes = _boxes(image, prompt, queries)
    logits = np.linspace(4.0, -4.0, queries, dtype=np.float32)
    return {
        "pred_masks": _masks(boxes, side),
        "pred_boxes": boxes,
        "pred_logits": np.tile(logits, (rows, 1)),
        "presence_logits": np.full((rows, 1), 3.0, np.float32),
        "query_index": np.tile(np.arange(queries, dtype=np.int64)[::-1], (rows, 1)),
    }


def _filled(spec: TensorRecord, values: NDArray[np.float32]) -> Array:
    shape = [len(values), *(int(size) for size in spec.shape[1:])]
    return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).astype(spec.dtype)


def _boxes(image: NDArray[np.float32], prompt: NDArray[np.float32], queries: int) -> NDArray[np.float32]:
    """Boxes xyxy from 0 to 1, [P, queries, 4]: along a diagonal that image and prompt shift."""
    along = np.arange(queries, dtype=np.float32) / queries
    low_x = (along + np.abs(image)[:, None]) % 1 * 0.7
    low_y = (along + np.abs(prompt)[:, None]) % 1 * 0.7
    return np.stack([low_x, low_y, low_x + 0.25, low_y + 0.2], axis=2).astype(np.float32)


def _masks(boxes: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Logits [P, queries, side, side]: positive inside an ellipse that fills the box."""
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    center, radius = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    across = ((at - center[..., :1]) / radius[..., :1]) ** 2
    down = ((at - center[..., 1:]) / radius[..., 1:]) ** 2
    return np.clip(8 * (1 - across[:, :, None, :] - down[:, :, :, None]), -12, 12).astype(np.float32)
