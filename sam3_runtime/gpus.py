"""GPUs: the generations that TensorRT-RTX compiles for, and the card of this machine.

Knows names and numbers of generations, and asks the driver's own ``nvidia-smi`` about the card; knows no backend's
library and opens no CUDA context. Pure: standard library.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from shutil import which

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
"""The environment variable by which CUDA is shown some of the cards, in an order of its own."""
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
    """The first card of this machine; nothing where there is no NVIDIA driver or it shows no card.

    Asked once for each process.
    """
    return next(iter(find_gpus()), None)


def find_gpus() -> tuple[Gpu, ...]:
    """The cards of this machine in the order of ``nvidia-smi``, those alone that CUDA_VISIBLE_DEVICES names where it
    is set, in its order.

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
    """Those that ``setting`` (numbers or beginnings of UUIDs) names; all of them where it names none that is known, as
    with slices of a card (MIG)."""
    if setting is None:
        return tuple(found)
    if setting.strip() in ("", "-1"):
        return ()
    chosen: list[Gpu] = []
    for entry in filter(None, (one.strip() for one in setting.split(","))):
        named = (
            found[int(entry) : int(entry) + 1] if entry.isdigit() else [g for g in found if g.uuid.startswith(entry)]
        )
        chosen += named[:1]
    return tuple(chosen or found)


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
