"""Graphs of launches, on a fake GPU."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.running import cuda_graphs
from sam3_runtime.engines.running.cuda import Cuda
from sam3_runtime.engines.running.cuda_graphs import capture
from tests.engines.running.fake_gpu import FakeGpu
from tests.engines.running.test_cuda import filled


def test_a_graph_repeats_what_was_captured(opened: Cuda, gpu: FakeGpu) -> None:
    array = filled(opened, np.arange(8, dtype=np.float32))
    made = array.astype("float16", "a")
    opened.synchronize()
    graph = capture(opened, lambda: opened.launch("narrow_to_float16", (8,), array, np.uint64(8), made))
    assert graph is not None
    opened.stage("other", array, np.full(8, 5, np.float32))
    assert np.asarray(made).tolist() == list(range(8))  # capturing ran nothing
    graph.launch()
    assert set(np.asarray(made).tolist()) == {5.0}
    graph.close()
    graph.close()
    assert gpu.graphs.alive == {}
    assert gpu.graphs.unfinished == 0


@pytest.mark.parametrize("refuses", ["begin", "end", "instantiate"])
def test_a_driver_that_refuses_gives_none(opened: Cuda, gpu: FakeGpu, refuses: str) -> None:
    gpu.graphs.refuses = refuses
    array = filled(opened, np.arange(8, dtype=np.float32))
    assert capture(opened, lambda: opened.launch("narrow_to_float16", (8,), array, np.uint64(8), array)) is None
    assert gpu.graphs.unfinished == 0
    opened.synchronize()


def test_an_engine_that_refuses_to_be_captured_gives_none(opened: Cuda, gpu: FakeGpu) -> None:
    def enqueue() -> None:
        raise EngineError("operation not permitted when stream is capturing")

    assert capture(opened, enqueue) is None
    assert gpu.graphs.unfinished == 0
    opened.synchronize()


def test_a_driver_without_graphs_gives_none(opened: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_driver_library", lambda: None)
    assert capture(opened, lambda: None) is None


def test_a_graph_that_does_not_launch_names_the_way_out(opened: Cuda, gpu: FakeGpu) -> None:
    graph = capture(opened, lambda: None)
    assert graph is not None
    gpu.graphs.refuses = "launch"
    with pytest.raises(EngineError, match=r"CUDA error 719\)\nHint: load with cuda_graphs=False"):
        graph.launch()
    graph.close()
