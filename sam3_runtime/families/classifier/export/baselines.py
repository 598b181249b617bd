"""Measures what a user has without this project: timm's model as it is, and the same with ``torch.compile``.

On the GPU where there is one, in float16 with channels last; otherwise on the CPU in float32. Timed are the model
(pixels on the device) and a round end to end: pictures in the host's memory go through timm's own transform there, as
timm is deployed, through the model, and the five best classes of each come back. The device is waited for before each
reading of the clock. Times do not depend on what is seen, so pictures are random. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from PIL import Image as Pillow
from torch import Tensor

from sam3_runtime.families.classifier.export.weights import load_model, transform_of
from sam3_runtime.graphs.baselines import Precision, measure
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.measurements import Baseline
from sam3_runtime.records.records import CheckpointLock

PICTURE = (720, 1280)
"""Height and width of the pictures."""


class Contender:
    """timm's model on its device, behind timm's transform."""

    def __init__(self, lock: CheckpointLock, resolution: int, device: torch.device, precision: Precision) -> None:
        self._dtype, self.device = getattr(torch, precision), device
        self._format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._transform = transform_of(lock, resolution)
        self.model = load_model(lock, resolution).to(device=device, dtype=self._dtype, memory_format=self._format)
        fused = any(getattr(module, "fused_attn", False) for module in self.model.modules())
        self.attention = "sdpa" if fused else "none"

    def compile(self, backend: str) -> None:
        """Compile the model in place, each shape for itself."""
        self.model.compile(mode="default", dynamic=False, backend=backend)

    def preprocess(self, pictures: Sequence[Image]) -> Tensor:
        """RGB uint8 [H, W, 3] → [B, 3, R, R] on the device."""
        pixels = torch.stack([self._transform(Pillow.fromarray(picture)) for picture in pictures])
        return pixels.to(device=self.device, dtype=self._dtype, memory_format=self._format)

    def see(self, pixels: Tensor) -> Any:
        """Logits."""
        return self.model(pixels)

    def answer(self, pictures: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """Probabilities and indices [B, 5] of the best classes, on the host."""
        logits = self.see(self.preprocess(pictures))
        best = logits.float().softmax(dim=1).topk(min(5, logits.shape[1]), dim=1)
        return best.values.cpu(), best.indices.cpu()


@torch.no_grad()
def measure_baseline(
    lock: CheckpointLock,
    location: str,
    resolution: int,
    settings: Mapping[str, Any],
    *,
    compiled: bool = True,
    precision: Precision | None = None,
    backend: str = "inductor",
) -> Baseline:
    """Measure both ways at ``resolution``, at each of ``settings["batches"]`` pictures a round.

    ``lock`` names the weights, ``location`` says where they are. Of ``settings``, ``warmup``, ``windows`` and
    ``rounds`` count here. ``backend`` is ``torch.compile``'s.
    """
    return measure(
        lock,
        lambda device, precision: Contender(lock.at(location), resolution, device, precision),
        "timm",
        resolution=resolution,
        settings=settings,
        picture=PICTURE,
        versions={"timm": timm.__version__},
        compiled=compiled,
        precision=precision,
        backend=backend,
    )
