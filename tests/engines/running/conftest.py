"""A machine with a fake GPU: pycuda, TensorRT and the driver's library are fakes, and nvidia-smi shows one card."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from sam3_runtime.core.gpus import Gpu
from sam3_runtime.engines.running import cuda_graphs
from sam3_runtime.engines.running.cuda import Cuda
from sam3_runtime.plan import toolchain
from tests.engines.running.fake_gpu import FakeGpu
from tests.engines.running.fake_runtime import make_runtime_module

InstallTensorRt = Callable[..., Any]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """The fake GPU, shown by pycuda and by the driver. Nothing may be left on it once everything is closed."""
    made = FakeGpu()
    package: Any = ModuleType("pycuda")
    package.driver = made.driver()
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)
    monkeypatch.setattr(cuda_graphs, "_driver_library", lambda: made.graphs)
    card = Gpu("Fake H200", "9.0", "580.65", made.total, "GPU-1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(toolchain, "find_gpu", lambda: card)
    monkeypatch.setattr(toolchain, "find_gpus", lambda: (card,))
    yield made
    gc.collect()
    assert made.faults == []
    assert not made.stack, "a context was left current"


@pytest.fixture
def opened(gpu: FakeGpu) -> Iterator[Cuda]:
    """The fake GPU, opened."""
    del gpu
    made = Cuda()
    yield made
    made.close()


@pytest.fixture
def install_tensorrt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> InstallTensorRt:
    """Installs the fake TensorRT of a release, and gives the module."""

    def install(release: str) -> Any:
        module = make_runtime_module(release, gpu)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(toolchain, "_version", lambda _: release)
        return module

    return install
