"""How far a build is: NVIDIA's own phases where the builder tells them, else the time that has passed.

Knows nothing of what is built.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sam3_runtime.engines.building.tensorrt_messages import BuildLog

_SHOWN_DEPTH = 2  # phases within phases within the whole: deeper ones come by the hundred
_PATIENCE = 5.0  # seconds without a word; small graphs are done before
_INTERVAL = 30.0  # seconds between two words of a builder that tells no phases


@contextmanager
def elapsed_time(announce: Callable[[str], None], log: BuildLog, interval: float = _INTERVAL) -> Iterator[None]:
    """Announce every ``interval`` seconds how long the block has taken, and the last thing that the build said."""
    ended, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(interval):
            announce(f"{time.monotonic() - started:6.1f} s  {log.last}")

    thread = threading.Thread(target=tell, name="elapsed-time", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def make_monitor(trt: Any, announce: Callable[[str], None], is_done: Callable[[], bool] = lambda: False) -> Any:
    """A progress monitor (TensorRT 9 and newer): the outer phases, with the seconds since the build began, are
    printed; those that come after a while without a word are announced, so that a small graph announces nothing.

    The build is given up as soon as ``is_done``.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.started = self.told = time.monotonic()
            self.depth: dict[str, int] = {}

        def say(self, text: str) -> None:
            now = time.monotonic()
            line = f"{now - self.started:6.1f} s  {text}"
            if now - self.told < _PATIENCE:
                print(line, flush=True)
            else:
                self.told = now
                announce(line)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002 (NVIDIA's names)
            self.depth[name] = self.depth.get(parent, -1) + 1 if parent else 0
            if self.depth[name] < _SHOWN_DEPTH:
                self.say(f"{'  ' * self.depth[name]}{name}")

        def step_complete(self, name: str, step: int) -> bool:  # noqa: ARG002 (likewise)
            return not is_done()

        def phase_finish(self, name: str) -> None:
            with suppress(KeyError):
                if self.depth.pop(name) == 0:
                    self.say("done")

    return Monitor()
