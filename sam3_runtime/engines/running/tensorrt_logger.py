"""One logger for each of NVIDIA's modules, for as long as the process lives.

TensorRT keeps the first logger that it is given and speaks through it to the end, whatever became of the builder or
runtime that it was given to: a logger that is freed before is written to all the same. Knows no message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LOGGERS: list[tuple[Any, Any]] = []


def logger_of(trt: Any) -> Any:
    """The logger of the module ``trt``. ``listener``, where it is set, is told every message with its severity's name;
    ``said()`` gives the errors since it was last called."""
    known = next((logger for module, logger in _LOGGERS if module is trt), None)
    if known is None:
        known = _make(trt)
        _LOGGERS.append((trt, known))
    return known


def _make(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listener: Callable[[str, str], None] | None = None
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if self.listener is not None:
                self.listener(severity.name, text)
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(text)

        def said(self) -> str:
            errors, self.errors = self.errors, []
            return "; ".join(dict.fromkeys(errors)) or "it gave no reason"

    return Logger()
