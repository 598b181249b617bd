"""Reads what float32 PyTorch said about the verification pictures: one safetensors file, without PyTorch.

The file holds the pictures themselves, so that verification needs neither them nor the checkpoint. It is written by
``export/reference.py``, which shares the names below. Nothing here judges anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.hints import command_for
from sam3_runtime.families.sam3.postprocess import scores_of

METADATA = "sam3_reference"
FORMAT = 1
SAMPLED = ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One picture asked one thing. K is the number of queries, n of boxes, D of detections kept at ``threshold``.

    ``boxes`` are xyxy in pixels of the picture, ``labels`` 1 or 0; both are empty for words alone, and then the
    geometry tensors are None. ``pred_boxes`` [K, 4] are xyxy 0..1; ``mask_samples`` [K, S] are the low-resolution
    mask logits of every query at ``Reference.mask_index``; ``masks`` [D, 4g, 4g] float16 are all mask logits of the
    detections ``kept`` (query numbers, best first).
    """

    picture: str
    text: str
    boxes: tuple[Box, ...]
    labels: tuple[int, ...]
    threshold: float
    pred_logits: NDArray[np.float32]
    pred_boxes: NDArray[np.float32]
    presence_logits: NDArray[np.float32]
    mask_samples: NDArray[np.float32]
    kept: NDArray[np.int64]
    masks: NDArray[np.float16]
    input_boxes: NDArray[np.float32] | None = None  # [n, 4] cxcywh 0..1
    input_boxes_labels: NDArray[np.int64] | None = None  # [n]
    geometry_features: NDArray[np.float32] | None = None  # [n + 1, C], the CLS token last
    geometry_mask: NDArray[np.bool_] | None = None  # [n + 1]

    @property
    def scores(self) -> NDArray[np.float32]:
        """sigmoid(logit) · sigmoid(presence) of every query, [K]."""
        scores: NDArray[np.float32] = scores_of(self.pred_logits, self.presence_logits)
        return scores


@dataclass(frozen=True)
class Reference:
    """Everything in the file. T texts of L tokens; ``features`` hold S sampled values a level, at ``feature_index``."""

    resolution: int
    checkpoint_digest: str
    dims: Mapping[str, int]
    versions: Mapping[str, str]
    pictures: Mapping[str, NDArray[np.uint8]]  # [H, W, 3] RGB
    texts: tuple[str, ...]
    input_ids: NDArray[np.int64]  # [T, L]
    attention_mask: NDArray[np.int64]  # [T, L]
    text_features: NDArray[np.float32]  # [T, L, C]
    text_mask: NDArray[np.bool_]  # [T, L]
    features: Mapping[str, Mapping[str, NDArray[np.float32]]]  # picture → level → [S]
    feature_index: Mapping[str, NDArray[np.int64]]  # level → [S], places in the flattened [C, h, w]
    fpn_pos_2: NDArray[np.float32]  # [S], sampled at feature_index["fpn_feat_2"]
    mask_index: NDArray[np.int64]  # [S], places in the flattened [4g, 4g]
    cases: tuple[Case, ...]

    @property
    def detections(self) -> int:
        return sum(len(case.kept) for case in self.cases)


def read_reference(path: Path) -> Reference:
    """Read a reference; :class:`RecordError` when it is missing, damaged or of another version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, safe_open has no __iter__
        if description["format"] != FORMAT:
            raise RecordError(f"{path} has format {description['format']}, not {FORMAT}", _again(path))
        return _assemble(description, tensors)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", f"run {command_for(path)}") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise RecordError(f"{path} is damaged or no reference: {error}", _again(path)) from None


def _again(path: Path) -> str:
    return f"delete it and run {command_for(path)}"


def _assemble(description: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Reference:
    names = description["pictures"]
    features = {
        name: {level: tensors[f"pictures.{place}.{level}"] for level in SAMPLED} for place, name in enumerate(names)
    }
    return Reference(
        resolution=description["resolution"],
        checkpoint_digest=description["checkpoint_digest"],
        dims=description["dims"],
        versions=description["versions"],
        pictures={name: tensors[f"pictures.{place}.image"] for place, name in enumerate(names)},
        texts=tuple(description["texts"]),
        input_ids=tensors["texts.input_ids"],
        attention_mask=tensors["texts.attention_mask"],
        text_features=tensors["texts.text_features"],
        text_mask=tensors["texts.text_mask"],
        features=features,
        feature_index={level: tensors[f"index.{level}"] for level in SAMPLED},
        fpn_pos_2=tensors["fpn_pos_2"],
        mask_index=tensors["index.masks"],
        cases=tuple(_case(place, case, tensors) for place, case in enumerate(description["cases"])),
    )


def _case(place: int, described: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Case:
    prefix = f"cases.{place}."
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in described["boxes"])
    return Case(
        picture=described["picture"],
        text=described["text"],
        boxes=boxes,
        labels=tuple(described["labels"]),
        threshold=described["threshold"],
        **found,
    )
