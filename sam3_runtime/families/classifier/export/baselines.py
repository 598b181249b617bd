"""Times timm's model without this project, as it is and with ``torch.compile``.

Runs on a GPU in float16 with channels last where there is one, otherwise on the CPU in float32. Two times are taken:
that of the model (pixels on the device), and that of a round end to end: images in host memory go through timm's own
transform on the host, as timm is deployed, and through the model; the five best classes of each are copied back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from PIL import Image as Pillow
from torch import Tensor

from sam3_runtime.families.classifier.export.weights import load_model, transform_of
from sam3_runtime.graphs.baselines import DEFAULTS, Options, Precision, measure
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.measurements import Baseline
from sam3_runtime.records.records import CheckpointLock


class Contender:
    """timm's model on its device, after timm's transform."""

    def __init__(self, lock: CheckpointLock, resolution: int, device: torch.device, precision: Precision) -> None:
        self._dtype, self.device = getattr(torch, precision), device
        self._format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._transform = transform_of(lock, resolution)
        self.model = load_model(lock, resolution).to(device=device, dtype=self._dtype, memory_format=self._format)
        fused = any(getattr(module, "fused_attn", False) for module in self.model.modules())
        self.attention = "sdpa" if fused else "none"

    def compile(self, backend: str) -> None:
        """Compile the model in place, for static shapes."""
        self.model.compile(mode="default", dynamic=False, backend=backend)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """Convert RGB uint8 images [H, W, 3] to pixels [B, 3, R, R] on the device."""
        pixels = torch.stack([self._transform(Pillow.fromarray(image)) for image in images])
        return pixels.to(device=self.device, dtype=self._dtype, memory_format=self._format)

    def encode(self, pixels: Tensor) -> Any:
        """Return the logits [B, K]."""
        return self.model(pixels)

    def answer(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """Return the probabilities and indices [B, 5] of the best classes, on the host."""
        logits = self.encode(self.preprocess(images))
        best = logits.float().softmax(dim=1).topk(min(5, logits.shape[1]), dim=1)
        return best.values.cpu(), best.indices.cpu()


@torch.no_grad()
def measure_baseline(
    lock: CheckpointLock,
    location: str,
    resolution: int,
    settings: Mapping[str, Any],
    options: Options = DEFAULTS,
) -> Baseline:
    """Measure timm's model at ``resolution`` pixels; ``location`` is where the locked weights are."""

    def make(device: torch.device, precision: Precision) -> Contender:
        return Contender(lock.at(location), resolution, device, precision)

    return measure(lock, make, timm, resolution=resolution, settings=settings, options=options)
