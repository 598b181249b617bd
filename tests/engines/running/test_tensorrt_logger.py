"""The logger that outlives what it was given to."""

from __future__ import annotations

import gc
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

from sam3_runtime.engines.running.tensorrt_logger import logger_of


class ILogger:
    pass


def module() -> Any:
    made: Any = ModuleType("tensorrt")
    made.ILogger = ILogger
    return made


ERROR, INFO = SimpleNamespace(name="ERROR"), SimpleNamespace(name="INFO")


def test_a_module_has_one_logger_which_nothing_frees() -> None:
    trt, other = module(), module()
    first = weakref.ref(logger_of(trt))
    gc.collect()
    assert first() is logger_of(trt)
    assert logger_of(other) is not logger_of(trt)


def test_errors_are_kept_until_they_are_asked_for() -> None:
    logger = logger_of(module())
    assert logger.reason() == "it gave no reason"
    logger.log(INFO, "fine")
    logger.log(ERROR, "one")
    logger.log(ERROR, "one")
    logger.log(ERROR, "two")
    assert logger.reason() == "one; two"
    assert logger.reason() == "it gave no reason"


def test_a_listener_hears_everything() -> None:
    logger, heard = logger_of(module()), []
    logger.listener = lambda severity, text: heard.append((severity, text))
    logger.log(INFO, "fine")
    logger.log(ERROR, "not")
    assert heard == [("INFO", "fine"), ("ERROR", "not")]
