"""The exceptions of this project, one tree.

Sam3Error                    a message for people: what is wrong, where, what to do
├── VariantsError            variants.yaml, or a variant's name
├── ProjectError             a project file: its classes, their boxes and reference images
├── CheckpointError          weights or configuration cannot be had, or are not what they were
├── ExportError              a graph came out in a form that this project does not ship
├── CalibrationError         no usable frames, or scales that belong to something else
├── BuildError               an engine could not be built
├── RecordError              a record, config.json or verdict is missing, damaged or of another engine
├── EngineError              an engine cannot be loaded here, or was fed something that it does not take
│   └── CannotRunHere        an engine that is sound, for another machine than this one
├── SourceError              an image or video cannot be read
├── OutputError              a result cannot be written
└── WorkFolderError          a work folder is used for two checkpoints or backends, or is held by another run

Each ends a command with its message alone and exit code 1; anything else that escapes is a defect and keeps
its traceback.
"""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """``text`` with ``%E9`` for each byte of a file's name that is not UTF-8: what can be encoded.

    Python keeps such bytes as surrogates, which no encoder takes and which end a process in OpenCV.
    """
    return re.sub("[\ud800-\udfff]", lambda odd: f"%{ord(odd[0]) & 0xFF:02X}", text)


class Sam3Error(Exception):
    """What is wrong (with the value), where, and, after ``Hint:``, what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message = printable(message)
        self.hint = hint = hint and printable(hint)
        super().__init__(f"{message}\nHint: {hint}" if hint else message)


class VariantsError(Sam3Error):
    pass


class ProjectError(Sam3Error):
    pass


class CheckpointError(Sam3Error):
    pass


class ExportError(Sam3Error):
    pass


class CalibrationError(Sam3Error):
    pass


class BuildError(Sam3Error):
    pass


class RecordError(Sam3Error):
    pass


class EngineError(Sam3Error):
    pass


class CannotRunHere(EngineError):
    pass


class SourceError(Sam3Error):
    pass


class OutputError(Sam3Error):
    pass


class WorkFolderError(Sam3Error):
    pass
