"""GPUs: the generations that TensorRT-RTX compiles for, and the GPUs of this machine.

A GPU's number means the same everywhere, in ``build.gpu``, in ``load(gpu=…)`` and in ``doctor``: it counts from 0 the
GPUs that are visible to this process, in the order of ``nvidia-smi``, or of CUDA_VISIBLE_DEVICES where it is set.

GPUs are read through NVML, the driver's management library (``nvidia-ml-py``), which opens no CUDA context. Pure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sam3_runtime.core.errors import WorkFolderError

GENERATIONS = {
    "7.5": "Turing",
    "8.0": "Ampere (A100)",
    "8.6": "Ampere",
    "8.9": "Ada",
    "12.0": "Blackwell",
    "12.1": "Blackwell (GB10)",
}
"""Compute capabilities that TensorRT-RTX compiles for (1.7), oldest first."""
NAMES = {"turing": "7.5", "ampere": "8.6", "ada": "8.9", "blackwell": "12.0"}
"""Compute capabilities of the GeForce and RTX GPUs of a generation; the others are written as numbers."""
DEFAULT_GPUS = ("8.9", "12.0")
FIRST_WITH_FP8 = "8.9"
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""The environment variable that selects and orders the GPUs that are visible to CUDA."""
NUMBERING = f"GPUs are numbered from 0, in the order of nvidia-smi, or of {VISIBLE_DEVICES} where it is set"


def as_number(capability: str) -> int:
    """Return ``8.9`` as 89, to compare and to name as NVIDIA's own tools do (``sm89``)."""
    return int(capability.replace(".", ""))


def parse_gpu(value: object) -> str:
    """Return the compute capability (``8.9``) of a name or number as people write it: ada, "8.9", 89, sm_89.

    Raises :class:`ValueError`, which lists what is known, for anything else.
    """
    text = str(value).strip().lower()
    digits = re.sub(r"^sm_?", "", text).replace(".", "")
    known = {str(as_number(capability)): capability for capability in GENERATIONS}
    found = NAMES.get(text) or (None if isinstance(value, bool) else known.get(digits))
    if found is None:
        listed = ", ".join(str(as_number(capability)) for capability in GENERATIONS)
        raise ValueError(
            f"{value!r} is not a GPU generation that TensorRT-RTX compiles for\n"
            f"Hint: use {', '.join(NAMES)}, or a compute capability: {listed}"
        )
    return found


def names_of(capabilities: Iterable[str]) -> str:
    """Return the generations for messages: ``Ada (8.9) and Blackwell (12.0)``."""
    listed = [f"{GENERATIONS[one].split(' (')[0]} ({one})" if one in GENERATIONS else one for one in capabilities]
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)


def without_fp8(capabilities: Iterable[str]) -> list[str]:
    """Return the compute capabilities that have no FP8 arithmetic."""
    return [one for one in capabilities if as_number(one) < as_number(FIRST_WITH_FP8)]


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG instance of one, that is visible to this process.

    ``memory`` in bytes; ``uuid`` identifies it whatever the numbering.
    """

    name: str
    compute_capability: str
    driver: str
    memory: int
    uuid: str = ""


def find_gpu() -> Gpu | None:
    """Return GPU 0 of this process; None without an NVIDIA driver or without a visible GPU."""
    return next(iter(find_gpus()), None)


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that are visible to this process, by number."""
    driver, found = query("SystemGetDriverVersion"), []
    for handle in visible_handles():
        name, uuid, memory = (query(f"DeviceGet{fact}", handle) for fact in ("Name", "UUID", "MemoryInfo"))
        capability = query("DeviceGetCudaComputeCapability", whole_gpu(handle))
        found.append(Gpu(name, ".".join(map(str, capability or ())), driver, memory.total if memory else 0, uuid or ""))
    return tuple(found)


@cache
def _nvml() -> Any:
    """Return the initialised module ``pynvml``; None without an NVIDIA driver."""
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def query(name: str, *arguments: Any) -> Any:
    """Call the NVML function ``nvml<name>``; None without a driver, or where driver or GPU do not support the call."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return getattr(nvml, f"nvml{name}")(*arguments)
    except nvml.NVMLError:
        return None


def visible_handles() -> list[Any]:
    """Return the NVML handles of the GPUs that CUDA shows to this process, by number.

    CUDA_VISIBLE_DEVICES is read as CUDA reads it: numbers and beginnings of UUIDs, up to the first that matches no GPU.
    A GPU in MIG mode computes through its instances: they go by UUID, and the GPU's number means the first of them.
    """
    found = (query("DeviceGetHandleByIndex", index) for index in range(query("DeviceGetCount") or 0))
    gpus = [handle for handle in found if handle is not None]
    numbered = [next(iter(_mig_instances(gpu)), gpu) for gpu in gpus]
    setting = os.environ.get(VISIBLE_DEVICES)
    if setting is None:
        return numbered
    every = [handle for gpu in gpus for handle in (gpu, *_mig_instances(gpu))]
    chosen: list[Any] = []
    for entry in map(str.strip, setting.split(",")):
        if entry.isdigit():
            matches = numbered[int(entry) : int(entry) + 1]
        else:
            matches = [one for one in every if entry and (query("DeviceGetUUID", one) or "").startswith(entry)]
        if not matches:
            break
        chosen.append(matches[0])
    return chosen


def _mig_instances(gpu: Any) -> list[Any]:
    count = query("DeviceGetMaxMigDeviceCount", gpu) or 0
    found = (query("DeviceGetMigDeviceHandleByIndex", gpu, index) for index in range(count))
    return [instance for instance in found if instance is not None]


def whole_gpu(handle: Any) -> Any:
    """Return the handle of the GPU that a MIG instance is part of; that of a GPU itself.

    NVML reports clocks, temperature and power for the whole GPU only.
    """
    return query("DeviceGetDeviceHandleFromMigDeviceHandle", handle) or handle


def select_gpus(gpus: Sequence[Gpu], indices: Sequence[int]) -> list[Gpu]:
    """Return the GPUs that ``build.gpu`` names by number; raises :class:`WorkFolderError` for one that is not there."""
    for index in indices:
        if index >= len(gpus):
            visible = describe_visible([gpu.name for gpu in gpus])
            raise WorkFolderError(f"build.gpu names GPU {index}, but {visible}", NUMBERING)
    return [gpus[index] for index in indices]


def describe_visible(names: Sequence[str]) -> str:
    """Return for messages which GPUs are visible to this process, and why those."""
    setting = os.environ.get(VISIBLE_DEVICES)
    who = "this machine" if setting is None else f"{VISIBLE_DEVICES}={setting}"
    listed = ", ".join(f"{index} is {name}" for index, name in enumerate(names))
    return f"{who} shows {len(names)}" + (f": {listed}" if names else "")


def cuda_version() -> str | None:
    """Return the newest CUDA version that the driver supports (``12.4``); None without a driver."""
    number = query("SystemGetCudaDriverVersion")
    return f"{number // 1000}.{number % 1000 // 10}" if number else None
