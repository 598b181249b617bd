"""A fake of ``nvidia-ml-py``: the GPUs of the JSON in FAKE_GPUS; no driver where it is not set.

Each GPU is an object with the fields of :data:`GPU`; what it leaves out has those values, and a null is what the GPU
does not support. ``mig`` lists its MIG instances, of the same form.
"""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

GPU: dict[str, Any] = {
    "name": "NVIDIA H200",
    "capability": [9, 0],
    "uuid": "GPU-a",
    "total_mib": 143771,
    "used_mib": 100,
    "reserved_mib": 600,
    "clocks": [0, 1980, 3201],
    "temperature": 41,
    "milliwatts": 612_500,
    "busy": 97,
    "processes": {},
    "mig": [],
}
MIB = 1 << 20


class NVMLError(Exception):
    """What every NVML function raises that fails."""


def _state() -> list[dict[str, Any]]:
    return [GPU | gpu for gpu in json.loads(os.environ["FAKE_GPUS"])]


def _find(uuid: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A GPU, and one of its instances: handles are UUIDs here."""
    for gpu in _state():
        if gpu["uuid"] == uuid:
            return gpu, None
        for one in gpu["mig"]:
            if one["uuid"] == uuid:
                return gpu, one
    raise NVMLError("Not Found")


def _field(uuid: str, name: str) -> Any:
    gpu, instance = _find(uuid)
    value = ({**GPU, "used_mib": 0} | instance if instance else gpu)[name]
    if value is None:
        raise NVMLError("Not Supported")
    return value


def _of_gpu(uuid: str, name: str) -> Any:
    """What NVML tells of a GPU and of no MIG instance."""
    if _find(uuid)[1] is not None:
        raise NVMLError("Invalid Argument")
    return _field(uuid, name)


def nvmlInit() -> None:
    if "FAKE_GPUS" not in os.environ:
        raise NVMLError("NVML Shared Library Not Found")


def nvmlSystemGetDriverVersion() -> str:
    return os.environ.get("FAKE_DRIVER", "580.65")


def nvmlSystemGetCudaDriverVersion() -> int:
    return 13000


def nvmlDeviceGetCount() -> int:
    return len(_state())


def nvmlDeviceGetHandleByIndex(index: int) -> str:
    return str(_state()[index]["uuid"])


def nvmlDeviceGetName(handle: str) -> str:
    return str(_field(handle, "name"))


def nvmlDeviceGetUUID(handle: str) -> str:
    return str(_field(handle, "uuid"))


def nvmlDeviceGetCudaComputeCapability(handle: str) -> list[int]:
    return list(_of_gpu(handle, "capability"))


def nvmlDeviceGetMemoryInfo(handle: str, version: int = 0) -> SimpleNamespace:
    used = _field(handle, "used_mib") + (0 if version else _field(handle, "reserved_mib"))
    return SimpleNamespace(total=_field(handle, "total_mib") * MIB, used=used * MIB)


def nvmlDeviceGetClockInfo(handle: str, kind: int) -> int:
    return int(_of_gpu(handle, "clocks")[kind])


def nvmlDeviceGetTemperature(handle: str, sensor: int) -> int:
    assert sensor == 0
    return int(_of_gpu(handle, "temperature"))


def nvmlDeviceGetPowerUsage(handle: str) -> int:
    return int(_of_gpu(handle, "milliwatts"))


def nvmlDeviceGetUtilizationRates(handle: str) -> SimpleNamespace:
    if _find(handle)[0]["mig"]:
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=_of_gpu(handle, "busy"), memory=3)


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[SimpleNamespace]:
    found = _field(handle, "processes").items()
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=None if mib is None else mib * MIB) for pid, mib in found]


def nvmlDeviceGetMaxMigDeviceCount(handle: str) -> int:
    return 7 if _of_gpu(handle, "mig") else 0


def nvmlDeviceGetMigDeviceHandleByIndex(handle: str, index: int) -> str:
    instances = _find(handle)[0]["mig"]
    if index >= len(instances):
        raise NVMLError("Not Found")
    return str(instances[index]["uuid"])


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle: str) -> str:
    gpu, instance = _find(handle)
    if instance is None:
        raise NVMLError("Invalid Argument")
    return str(gpu["uuid"])
