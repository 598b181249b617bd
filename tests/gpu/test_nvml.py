"""What NVML tells of the GPU, compared with what CUDA tells."""

from __future__ import annotations

import os

import pytest

from sam3_runtime.core.gpus import cuda_version, find_gpu, find_gpus
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.measure.gpu_monitor import monitor, process_gpu_mib, read

pytestmark = pytest.mark.gpu


def test_nvml_and_cuda_describe_the_same_gpu(device: CudaDevice) -> None:
    gpu, cuda = find_gpu(), device.cuda
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability) == (cuda.name, cuda.compute_capability)
    assert 0.9 < cuda.memory()[1] / gpu.memory <= 1.001
    assert cuda_version() is not None


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = find_gpus()
    assert gpus
    for gpu in gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu.uuid)
        assert find_gpus() == (gpu,)


def test_readings_while_memory_is_taken(device: CudaDevice) -> None:
    before = read()
    assert before is not None
    assert before.used_mib is not None
    block = device.cuda.alloc(512 << 20)
    with monitor(interval=0.01) as readings:
        device.synchronize()
    block.free()
    after = readings[0]
    assert after.used_mib is not None
    assert 500 <= after.used_mib - before.used_mib < 600
    assert None not in (after.sm_mhz, after.memory_mhz, after.temperature_c, after.power_w)
    own = process_gpu_mib()
    assert own is None or own > 100, f"process {os.getpid()}"
