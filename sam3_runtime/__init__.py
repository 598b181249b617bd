"""Runs SAM3 engines: ``sam3_runtime.load("engines/b8_q50_r672").detect(images, ["person"])``.

Importing this package is free: whatever needs an array library is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3_runtime.loading import load as load
    from sam3_runtime.pipeline import Pipeline as Pipeline
    from sam3_runtime.postprocess import Detections as Detections
    from sam3_runtime.prompts import Prompt as Prompt

__version__ = "0.1.0"
__all__ = ["Detections", "Pipeline", "Prompt", "__version__", "load"]

_HOMES = {"load": "loading", "Pipeline": "pipeline", "Detections": "postprocess", "Prompt": "prompts"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
