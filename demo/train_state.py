"""Averaged weights, the clock and the learning rate of training, and the state from which a later stretch continues.

A state is a folder: ``progress.json``, and one safetensors file split into parts of at most 15 MiB, which are
easy to copy: weights and their averages in float32, the optimiser's moments in bfloat16. Independent of the model.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn

from sam3_runtime.core.errors import CheckpointError

PART = 15 << 20  # bytes
WARM_UP = 300  # steps
_AVERAGE = 0.9995  # decay of the averaged weights per step, after the first steps


@dataclass
class Progress:
    """Progress of training: steps, seconds, and stretches begun."""

    step: int = 0
    seconds: float = 0.0
    stretch: int = 0


class Clock:
    """Seconds trained, and whether this stretch or the whole training is over; equal in every process."""

    def __init__(self, minutes: float, total_minutes: float, before: float, processes: int) -> None:
        self.before, self.total, self.processes = before, total_minutes * 60, processes
        self.until = min(self.total, before + minutes * 60)
        self.started = time.monotonic()
        self.seconds = self.before

    def agree(self) -> None:
        self.seconds = self.before + time.monotonic() - self.started
        if self.processes > 1:
            shared = torch.tensor([self.seconds], dtype=torch.float64)  # on the host: no wait for the GPU
            dist.broadcast(shared, 0)
            self.seconds = float(shared)

    @property
    def fraction(self) -> float:
        return self.seconds / self.total

    @property
    def over(self) -> bool:
        return self.seconds >= self.until


def learning_rate(peak: float, step: int, fraction: float) -> float:
    """Return the learning rate: linear over ``WARM_UP`` steps, times a half cosine over the elapsed share of time."""
    return peak * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, step: int) -> None:
    """Move the averaged weights towards the current ones: quickly at first, when weights are still poor."""
    keep = min(_AVERAGE, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(averaged.parameters()), list(current.parameters()), 1 - keep)


def write_state(
    folder: Path, progress: Progress, current: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state into ``folder``, which contains the complete old state or the complete new one."""
    tensors = _weights(current, "current") | _weights(averaged, "averaged")
    for name, parameter in current.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state.get(parameter, {}):
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].bfloat16()
    data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    starts = range(0, len(data), PART)
    for index, start in enumerate(starts):
        (temporary / f"tensors.{index}").write_bytes(data[start : start + PART])
    (temporary / "progress.json").write_text(json.dumps(asdict(progress) | {"parts": len(starts), "bytes": len(data)}))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def read_state(
    folder: Path, current: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> Progress:
    """Load the modules (and the optimiser) from ``folder``. Raises :class:`CheckpointError` unless it is a complete
    state of this model."""
    try:
        written = json.loads((folder / "progress.json").read_text())
        data = b"".join((folder / f"tensors.{index}").read_bytes() for index in range(written["parts"]))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} contains no training state: {error}", "copy it again, or start a new run"
        ) from None
    if len(data) != written["bytes"]:
        raise CheckpointError(f"{folder}: {len(data)} bytes of tensors, not {written['bytes']}", "copy it again")
    tensors = load(data)
    for prefix, module in (("current", current), ("averaged", averaged)):
        if {n: t.shape for n, t in _weights(module, prefix).items()} != _shapes(tensors, f"{prefix}."):
            raise CheckpointError(f"{folder} is the state of another architecture", "start a new run in another folder")
        for name, parameter in module.named_parameters():
            parameter.data.copy_(tensors[f"{prefix}.{name}"])
    progress = Progress(written["step"], written["seconds"], written["stretch"])
    if optimizer is not None:
        for name, parameter in current.named_parameters():
            if f"exp_avg.{name}" in tensors:
                moments = {m: tensors[f"{m}.{name}"].to(parameter) for m in ("exp_avg", "exp_avg_sq")}
                step = torch.tensor(float(progress.step), device=parameter.device)
                optimizer.state[parameter] = {
                    "step": step, **{m: torch.empty_like(parameter).copy_(t) for m, t in moments.items()}
                }  # fmt: skip
    return progress


def _weights(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": parameter.detach() for name, parameter in module.named_parameters()}


def _shapes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith(prefix)}
