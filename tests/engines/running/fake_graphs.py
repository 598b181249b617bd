"""The driver's own library of a fake GPU, as far as CUDA graphs go."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

Operation = Callable[[], None]
"""Something that was put on a stream."""


class FakeGraphs:
    """Graphs of what is put on the streams of ``gpu`` (a ``FakeGpu``). ``refuses`` names the call that fails."""

    def __init__(self, gpu: Any) -> None:
        self._gpu = weakref.proxy(gpu)
        self.refuses: str | None = None
        self.alive: dict[int, list[Operation]] = {}
        self.launches = 0
        self._made: dict[int, list[Operation]] = {}
        self._next = 1

    def cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        assert mode == 1, "other threads may allocate meanwhile"
        if self.refuses == "begin":
            return 900
        found = self._gpu.stream_of(stream.value)
        assert not found.queue, "work is still waiting"
        found.captured = []
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        found = self._gpu.stream_of(stream.value)
        captured, found.captured = found.captured, None
        if captured is None or self.refuses == "end":
            return 901
        graph._obj.value = self._handle()
        self._made[graph._obj.value] = captured
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:
        assert flags.value == 0
        if self.refuses == "instantiate":
            return 2
        executable._obj.value = self._handle()
        self.alive[executable._obj.value] = self._made[graph.value]
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        del self._made[graph.value]
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        if self.refuses == "launch":
            return 719
        self.launches += 1
        for operation in self.alive[executable.value]:
            self._gpu.stream_of(stream.value).put(operation)
        return 0

    def cuGraphExecDestroy(self, executable: Any) -> int:
        del self.alive[executable.value]
        return 0

    @property
    def unfinished(self) -> int:
        """Graphs that were neither destroyed nor belong to anything."""
        return len(self._made)

    def _handle(self) -> int:
        self._next += 1
        return self._next
