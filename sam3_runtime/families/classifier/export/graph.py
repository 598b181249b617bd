"""The module that the export traces. How it is traced is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.classifier.export.weights import load_model
from sam3_runtime.families.classifier.spec import CLASSIFIER
from sam3_runtime.records.records import CheckpointLock

TRACED = {"B": 2}
"""Sizes that the dynamic dimensions have while tracing."""
ISLANDS: dict[str, str] = {}
"""Nothing has to stay in float32."""
VERSIONS = {"timm": timm.__version__}


def module_of(part: str, lock: CheckpointLock, axes: Mapping[str, int], _settings: Mapping[str, Any]) -> nn.Module:
    """The model, float32 in eval mode: images [B, 3, R, R] → logits [B, K].

    Raises :class:`CheckpointError` when the weights cannot be had, :class:`ExportError` for a resolution that the model
    does not take.
    """
    if part not in CLASSIFIER.parts:
        raise ExportError(f"a classifier has no part {part!r}", f"it has {', '.join(CLASSIFIER.parts)}")
    model: nn.Module = load_model(lock, axes["resolution"], exportable=True)
    return model
