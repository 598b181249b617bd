"""Progress of a build, and ending it early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sam3_runtime.engines.building.tensorrt_messages import BuildLog

_INTERVAL = 30.0  # seconds; small graphs are built sooner


@contextmanager
def elapsed_time(announce: Callable[[str], None], log: BuildLog, interval: float = _INTERVAL) -> Iterator[None]:
    """Announce every ``interval`` seconds how long the block has taken, and the last message of the build."""
    ended, started = threading.Event(), time.monotonic()

    def run() -> None:
        while not ended.wait(interval):
            announce(f"{time.monotonic() - started:6.1f} s  {log.last}")

    thread = threading.Thread(target=run, name="elapsed-time", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def stop_when(trt: Any, is_done: Callable[[], bool]) -> Any:
    """Return a progress monitor (TensorRT 9 and newer) that ends the build as soon as ``is_done``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, *_: Any) -> None:
            pass

        def step_complete(self, *_: Any) -> bool:
            return not is_done()

        def phase_finish(self, *_: Any) -> None:
            pass

    return Monitor()
