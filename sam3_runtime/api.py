"""Import the public API, and the array libraries that it needs, when one of its names is first used."""

from __future__ import annotations

from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3.banks import Bank, extract, load_bank
from sam3_runtime.families.sam3.detector import Detector, open_detector
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.projects import read_project
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections
from sam3_runtime.streams.flow import Flow, Result, stream
from sam3_runtime.tracking.tracker import Tracker, TrackSettings

__all__ = [
    "Bank", "Detections", "Detector", "Flow", "Pipeline", "Prompt", "Result", "TrackSettings", "Tracker",
    "extract", "load", "load_bank", "open_detector", "read_project", "stream",
]  # fmt: skip
