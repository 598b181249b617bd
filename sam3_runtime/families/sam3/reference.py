"""Reads the outputs of float32 PyTorch on the verification images, from one safetensors file.

The file contains the images, so that verification needs neither the source files nor the checkpoint. It is written by
``export/reference.py``, which shares the names below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.tensor_files import read_tensors
from sam3_runtime.families.sam3.postprocess import scores_of

METADATA = "sam3_reference"
FORMAT = 1
SAMPLED = ("fpn_feat_0", "fpn_feat_1", "fpn_feat_2")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One prompt on one image. K is the number of queries, n of boxes, D of detections above ``threshold``.

    ``boxes`` are xyxy in pixels of the image, ``labels`` 1 or 0; both are empty for a prompt of words alone, and then
    the geometry tensors are None. ``pred_boxes`` [K, 4] are xyxy 0..1; ``mask_samples`` [K, S] are the low-resolution
    mask logits of every query at ``Reference.mask_index``; ``kept`` are the query indices of the detections, best
    first, and ``masks`` [D, 4g, 4g] float16 all their mask logits.
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
        return scores_of(self.pred_logits, self.presence_logits)


@dataclass(frozen=True)
class Reference:
    """The contents of the file. T texts of L tokens; ``features`` are S samples a level, at ``feature_index``."""

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
    features: Mapping[str, Mapping[str, NDArray[np.float32]]]  # image → level → [S]
    feature_index: Mapping[str, NDArray[np.int64]]  # level → [S], indices into the flattened [C, h, w]
    fpn_pos_2: NDArray[np.float32]  # [S], sampled at feature_index["fpn_feat_2"]
    mask_index: NDArray[np.int64]  # [S], indices into the flattened [4g, 4g]
    cases: tuple[Case, ...]

    @property
    def detections(self) -> int:
        """Number of detections of all cases."""
        return sum(len(case.kept) for case in self.cases)


def read_reference(path: Path) -> Reference:
    """Read a reference. Raises :class:`RecordError` if it is missing, damaged or of another version."""
    return read_tensors(path, METADATA, FORMAT, _parse)


def _parse(description: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Reference:
    names = description["pictures"]
    return Reference(
        resolution=description["resolution"],
        checkpoint_digest=description["checkpoint_digest"],
        dims=description["dims"],
        versions=description["versions"],
        pictures={name: tensors[f"pictures.{index}.image"] for index, name in enumerate(names)},
        texts=tuple(description["texts"]),
        **{name: tensors[f"texts.{name}"] for name in ("input_ids", "attention_mask", "text_features", "text_mask")},
        features={
            name: {level: tensors[f"pictures.{index}.{level}"] for level in SAMPLED} for index, name in enumerate(names)
        },
        feature_index={level: tensors[f"index.{level}"] for level in SAMPLED},
        fpn_pos_2=tensors["fpn_pos_2"],
        mask_index=tensors["index.masks"],
        cases=tuple(_case(index, case, tensors) for index, case in enumerate(description["cases"])),
    )


def _case(index: int, described: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Case:
    prefix = f"cases.{index}."
    found: dict[str, Any] = {
        name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
    }
    boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in described["boxes"])
    fields = {name: described[name] for name in ("picture", "text", "threshold")}
    return Case(boxes=boxes, labels=tuple(described["labels"]), **fields, **found)
