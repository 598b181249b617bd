"""Progress messages of builds that take long."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.engines.building.tensorrt_common import progress
from sam3_runtime.engines.building.tensorrt_messages import BuildLog


def task_that(announce: Any) -> Any:
    return SimpleNamespace(path=Path("onnx/decoder.onnx"), announce=announce)


def test_the_last_message_is_announced_until_the_build_ends() -> None:
    log, told, heard = BuildLog(), list[str](), threading.Event()

    def announce(text: str) -> None:
        told.append(text)
        heard.set()

    log.note("INFO", "Global timing cache in use.")
    log.note("VERBOSE", "=============== Computing costs for {ForeignNode[a...b]}")
    with progress(task_that(announce), log, interval=0.001):
        assert heard.wait(30)
    assert told[0].startswith("decoder.onnx: ")
    assert told[0].endswith("s  Computing costs for {ForeignNode[a...b]}")
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_a_short_build_announces_nothing() -> None:
    told: list[str] = []
    with progress(task_that(told.append), BuildLog()):
        pass
    assert told == []
