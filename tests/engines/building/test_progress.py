"""A word now and then from builders that tell no phases."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.engines.building.tensorrt_messages import BuildLog
from sam3_runtime.engines.building.tensorrt_progress import elapsed_time


def test_what_was_said_last_is_announced_until_the_build_ends() -> None:
    log, told, heard = BuildLog(), list[str](), threading.Event()

    def announce(text: str) -> None:
        told.append(text)
        heard.set()

    log.note("INFO", "Global timing cache in use.")
    log.note("VERBOSE", "=============== Computing costs for {ForeignNode[a...b]}")
    with elapsed_time(announce, log, interval=0.001):
        assert heard.wait(30)
    assert told[0].endswith("s  Computing costs for {ForeignNode[a...b]}")
    assert not any(thread.name == "elapsed-time" for thread in threading.enumerate())


def test_a_short_build_says_nothing() -> None:
    told: list[str] = []
    with elapsed_time(told.append, BuildLog()):
        pass
    assert told == []
