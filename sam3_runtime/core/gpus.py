"""GPUs: the generations that TensorRT-RTX compiles for, and the GPUs of this machine.

A GPU's number means the same everywhere, in ``build.gpu``, in ``load(gpu=…)`` and in ``doctor``: it counts from 0 the
GPUs that are shown to this process, in the order of ``nvidia-smi``, or in that of CUDA_VISIBLE_DEVICES where it is set.

Knows names and numbers of generations, and asks the driver's own ``nvidia-smi`` about the GPUs; knows no backend's
library and opens no CUDA context. Pure: standard library.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from shutil import which

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
"""What a generation's GeForce and RTX cards have; the others are asked for by number."""
DEFAULT_GPUS = ("8.9", "12.0")
FIRST_WITH_FP8 = "8.9"
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""The environment variable that selects and orders the GPUs that are visible to CUDA."""
NUMBERING = f"GPUs are numbered from 0, in the order of nvidia-smi, or of {VISIBLE_DEVICES} where it is set"
_MIB = 1 << 20
_PATIENCE = 30.0  # seconds that nvidia-smi may take


def as_number(capability: str) -> int:
    """``8.9`` → 89, to compare and to name as NVIDIA's own tools do (``sm89``)."""
    return int(capability.replace(".", ""))


def parse_gpu(value: object) -> str:
    """The compute capability (``8.9``) of a name or number as people write it: ada, "8.9", 89, sm_89.

    :class:`ValueError` names what is known for anything else.
    """
    text = str(value).strip().lower()
    digits = re.sub(r"^sm_?", "", text).replace(".", "")
    known = {str(as_number(capability)): capability for capability in GENERATIONS}
    found = NAMES.get(text) or (None if isinstance(value, bool) else known.get(digits))
    if found is None:
        listed = ", ".join(str(as_number(capability)) for capability in GENERATIONS)
        raise ValueError(
            f"{value!r} is no GPU generation that TensorRT-RTX compiles for\n"
            f"Hint: use {', '.join(NAMES)}, or a compute capability: {listed}"
        )
    return found


def names_of(capabilities: Iterable[str]) -> str:
    """For people: ``Ada (8.9) and Blackwell (12.0)``."""
    listed = [f"{GENERATIONS[one].split(' (')[0]} ({one})" if one in GENERATIONS else one for one in capabilities]
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)


def without_fp8(capabilities: Iterable[str]) -> list[str]:
    """Those that have no FP8 arithmetic."""
    return [one for one in capabilities if as_number(one) < as_number(FIRST_WITH_FP8)]


@dataclass(frozen=True)
class Gpu:
    """A card that the driver shows. ``memory`` in bytes; ``uuid`` names it whatever order cards are counted in."""

    name: str
    compute_capability: str
    driver: str
    memory: int
    uuid: str = ""


@lru_cache(maxsize=1)
def find_gpu() -> Gpu | None:
    """GPU 0 of this machine; nothing where there is no NVIDIA driver or it shows no GPU.

    Asked once for each process.
    """
    return next(iter(find_gpus()), None)


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that are shown to this process, by number: in the order of ``nvidia-smi``, or, where
    CUDA_VISIBLE_DEVICES is set, those that it names, in its order.

    ``nvidia-smi`` comes with the driver, on Linux and Windows alike.
    """
    found = [
        Gpu(row[0], row[1], row[2], int(row[3]) * _MIB if row[3].isdigit() else 0, *row[4:])
        for row in ask_driver("--query-gpu=name,compute_cap,driver_version,memory.total,uuid")
        if len(row) in (4, 5)
    ]
    return _visible(found, os.environ.get(VISIBLE_DEVICES))


def ask_driver(*query: str) -> list[list[str]]:
    """The rows that ``nvidia-smi`` answers ``query`` with, cut into fields; none where it is not, or does not answer:
    a driver that does not runs no engine."""
    tool = which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, *query, "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if run.returncode:
        return []
    return [[field.strip() for field in line.split(",")] for line in run.stdout.splitlines() if line.strip()]


def _visible(found: list[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Those that ``setting`` names, as CUDA reads it: numbers and beginnings of UUIDs, up to the first that names no
    GPU. A slice of a GPU (MIG) goes by its own UUID, and by the name of the GPU where its UUID tells which."""
    if setting is None:
        return tuple(found)
    chosen: list[Gpu] = []
    for entry in (one.strip() for one in setting.split(",")):
        if entry.isdigit():
            named = found[int(entry) : int(entry) + 1]
        elif entry.startswith("MIG-"):
            whole = [gpu for gpu in found if gpu.uuid and gpu.uuid in entry] or found
            named = [replace(gpu, uuid=entry) for gpu in whole]
        else:
            named = [gpu for gpu in found if entry and gpu.uuid.startswith(entry)]
        if not named:
            break
        chosen.append(named[0])
    return tuple(chosen)


def asked_for(gpus: Sequence[Gpu], indices: Sequence[int]) -> list[Gpu]:
    """Those of ``gpus`` that ``build.gpu`` names; :class:`WorkFolderError` where there is none of a number."""
    for index in indices:
        if index >= len(gpus):
            shown = shown_as([gpu.name for gpu in gpus])
            raise WorkFolderError(f"build.gpu names GPU {index}, and {shown}", NUMBERING)
    return [gpus[index] for index in indices]


def shown_as(names: Sequence[str]) -> str:
    """For messages: which GPUs of which numbers are shown to this process, and by what."""
    setting = os.environ.get(VISIBLE_DEVICES)
    who = "this machine" if setting is None else f"{VISIBLE_DEVICES}={setting}"
    listed = ", ".join(f"{index} is {name}" for index, name in enumerate(names))
    return f"{who} shows {len(names)}" + (f": {listed}" if names else "")


def cuda_version() -> str | None:
    """The newest CUDA that the driver knows (``12.4``); nothing where there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        number = ctypes.c_int()
        if driver.cuDriverGetVersion(ctypes.byref(number)) != 0 or not number.value:
            return None
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"
