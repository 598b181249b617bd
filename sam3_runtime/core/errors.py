"""Define the exceptions of this project, one tree below :class:`Sam3Error`.

Each ends a command with its message alone and exit code 1; any other exception that escapes is a defect and keeps its
traceback.
"""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Return ``text`` with ``%E9`` for each byte of a file's name that is not UTF-8, so that it can be encoded.

    Python represents such bytes as surrogates, which cannot be encoded and which end a process in OpenCV.
    """
    return re.sub("[\ud800-\udfff]", lambda odd: f"%{ord(odd[0]) & 0xFF:02X}", text)


class Sam3Error(Exception):
    """A message for people: what is wrong (with the value), where, and, after ``Hint:``, what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message = printable(message)
        self.hint = hint = hint and printable(hint)
        super().__init__(f"{message}\nHint: {hint}" if hint else message)


class VariantsError(Sam3Error):
    """``variants.yaml`` or a variant's name is wrong."""


class ProjectError(Sam3Error):
    """A project file is wrong: its classes, their boxes or reference images."""


class CheckpointError(Sam3Error):
    """Weights or configuration are not available, or changed."""


class ExportError(Sam3Error):
    """A graph was exported in a form that this project does not ship."""


class CalibrationError(Sam3Error):
    """No calibration frame is usable, or scales belong to another graph."""


class BuildError(Sam3Error):
    """An engine could not be built."""


class RecordError(Sam3Error):
    """A record, configuration or verdict is missing, damaged or of another engine."""


class EngineError(Sam3Error):
    """An engine cannot be loaded here, or got inputs that it does not support."""


class CannotRunHere(EngineError):
    """An intact engine was built for another machine."""


class SourceError(Sam3Error):
    """An image or video cannot be read."""


class OutputError(Sam3Error):
    """A result cannot be written."""


class WorkFolderError(Sam3Error):
    """A work folder is used for two checkpoints or backends, or by another run."""
