"""Constructs the PyTorch module that ``graphs/export.py`` traces."""

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
"""The FP32 exceptions: none."""
VERSIONS = {"timm": timm.__version__}


def module_of(part: str, lock: CheckpointLock, axes: Mapping[str, int], _settings: Mapping[str, Any]) -> nn.Module:
    """Return the model in float32 and eval mode: images [B, 3, R, R] → logits [B, K].

    Raises :class:`CheckpointError` when the weights cannot be read, :class:`ExportError` for a resolution that the
    model does not support.
    """
    if part not in CLASSIFIER.parts:
        raise ExportError(f"a classifier has no part {part!r}", f"it has {', '.join(CLASSIFIER.parts)}")
    model: nn.Module = load_model(lock, axes["resolution"], exportable=True)
    return model
