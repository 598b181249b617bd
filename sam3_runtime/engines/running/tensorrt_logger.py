"""One logger for each of NVIDIA's modules, as long as the process lives.

TensorRT keeps the first logger that it is given and writes to it to the end, even when it was freed with the builder or
runtime that it was given to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def logger_of(trt: Any) -> Any:
    """Return the logger of the module ``trt``.

    Its ``listener``, where it is set, gets the severity and the text of every message; ``reason()`` joins the errors
    since it was last called.
    """

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

        def reason(self) -> str:
            errors, self.errors = self.errors, []
            return "; ".join(dict.fromkeys(errors)) or "it gave no reason"

    return Logger()
