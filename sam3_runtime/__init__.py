"""Runs SAM3 engines: ``sam3_runtime.load("engines/b8_q50_r672").detect(images, ["person"])``.

Importing this package is free: whatever needs an array library is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3_runtime.deploy.loading import load as load
    from sam3_runtime.families.sam3.banks import Bank as Bank
    from sam3_runtime.families.sam3.banks import extract as extract
    from sam3_runtime.families.sam3.banks import load_bank as load_bank
    from sam3_runtime.families.sam3.detector import Detector as Detector
    from sam3_runtime.families.sam3.detector import open_detector as open_detector
    from sam3_runtime.families.sam3.pipeline import Pipeline as Pipeline
    from sam3_runtime.families.sam3.projects import read_project as read_project
    from sam3_runtime.families.sam3.prompts import Prompt as Prompt
    from sam3_runtime.imaging.postprocess import Detections as Detections
    from sam3_runtime.streams.flow import Flow as Flow
    from sam3_runtime.streams.flow import Result as Result
    from sam3_runtime.streams.flow import stream as stream
    from sam3_runtime.tracking.tracker import Tracker as Tracker
    from sam3_runtime.tracking.tracker import TrackSettings as TrackSettings

__version__ = "0.1.0"
_HOMES = {
    "Bank": "families.sam3.banks",
    "Detections": "imaging.postprocess",
    "Detector": "families.sam3.detector",
    "Flow": "streams.flow",
    "Pipeline": "families.sam3.pipeline",
    "Prompt": "families.sam3.prompts",
    "Result": "streams.flow",
    "TrackSettings": "tracking.tracker",
    "Tracker": "tracking.tracker",
    "extract": "families.sam3.banks",
    "load": "deploy.loading",
    "load_bank": "families.sam3.banks",
    "open_detector": "families.sam3.detector",
    "read_project": "families.sam3.projects",
    "stream": "streams.flow",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
