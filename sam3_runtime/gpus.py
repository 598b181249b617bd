"""GPUs: the generations that TensorRT-RTX compiles for, and the card of this machine.

Knows names and numbers of generations, and asks the driver's own ``nvidia-smi`` about the card; knows no backend's
library and opens no CUDA context. Pure: standard library.
"""

from __future__ import annotations

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
_MIB = 1 << 20


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
    """The first card that the driver shows. ``memory`` in bytes."""

    name: str
    compute_capability: str
    driver: str
    memory: int


@lru_cache(maxsize=1)
def find_gpu() -> Gpu | None:
    """The card of this machine; nothing where there is no NVIDIA driver or it shows no card.

    Asked once for each process. ``nvidia-smi`` comes with the driver, on Linux and Windows alike.
    """
    tool = which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # a driver that does not answer runs no engine
    fields = [field.strip() for field in run.stdout.partition("\n")[0].split(",")]
    if run.returncode != 0 or len(fields) != 4:
        return None
    memory = int(fields[3]) * _MIB if fields[3].isdigit() else 0
    return Gpu(fields[0], fields[1], fields[2], memory)
