"""Times transformers' SAM3 without this project: with SDPA, and the same with ``torch.compile``.

    python -m sam3_runtime.families.sam3.export.baselines --checkpoint random --resolution 672 --output baseline.json

Runs on a GPU in float16 where there is one, otherwise on the CPU in float32. Two times are taken: that of the vision
encoder (pixels on the device), and that of a round end to end, as in ``measure/benchmark.py``: images in host memory
are resized on the device, every prompt is run on every image, and the best masks of each are resized to the image.
Masks stay on the device, where transformers leaves them; boxes and scores are copied to the host. Text is encoded
beforehand. Images and words are random. Needs transformers 5.17 or newer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.families.sam3.export.checkpoint import lock
from sam3_runtime.families.sam3.export.weights import load_model
from sam3_runtime.families.sam3.settings import BenchSection
from sam3_runtime.graphs.baselines import DEFAULTS, Options, Precision, measure
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.measurements import Baseline
from sam3_runtime.records.records import CheckpointLock

_WORDS = 8  # valid tokens of each prompt
_IDS = 512  # a small checkpoint has no more
_COMPILED = ("vision_encoder", "detr_encoder", "detr_decoder", "mask_decoder")


class Contender:
    """``Sam3Model`` on its device, with ``prompts`` prompts, of each of which the best ``masks`` are returned."""

    def __init__(self, model: Any, prompts: int, masks: int, device: torch.device, precision: Precision) -> None:
        self.dtype = getattr(torch, precision)
        self.model = model.to(device=device, dtype=self.dtype)
        self.device = device
        self.attention = str(model.config._attn_implementation)
        self.resolution = int(model.config.vision_config.backbone_config.image_size)
        self._masks = masks
        generator = torch.Generator().manual_seed(0)
        length = model.config.text_config.max_position_embeddings
        ids = torch.randint(2, _IDS, (prompts, length), generator=generator).to(device)
        self._mask = (torch.arange(length) < _WORDS).long().expand(prompts, -1).contiguous().to(device)
        self._text = model.get_text_features(input_ids=ids, attention_mask=self._mask).pooler_output

    def compile(self, backend: str) -> None:
        """Compile the model's parts in place, for static shapes."""
        for name in _COMPILED:
            getattr(self.model, name).compile(mode="default", dynamic=False, backend=backend)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """Convert RGB uint8 [H, W, 3] of one size to [B, 3, R, R] from -1 to 1, as transformers does on a GPU."""
        pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2).float()
        size = (self.resolution, self.resolution)
        resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        return (resized.round_().clamp_(0, 255) / 127.5 - 1).to(self.dtype)

    def encode(self, pixels: Tensor) -> Any:
        """Run the vision encoder."""
        return self.model.get_vision_features(pixels)

    def answer(self, images: Sequence[Image]) -> list[Tensor]:
        """Return the best masks bool [masks, H, W] of each image and prompt.

        The decoder is called as few times as possible: with all prompts for an image, or with all images for a prompt.
        """
        vision = self.encode(self.preprocess(images))
        height, width = images[0].shape[:2]
        count, prompts = len(images), len(self._text)
        if count <= prompts:
            calls = [(slice(index, index + 1), slice(0, prompts)) for index in range(count)]
        else:
            calls = [(slice(0, count), slice(index, index + 1)) for index in range(prompts)]
        return [mask for rows, texts in calls for mask in self._decode(vision, rows, texts, (height, width))]

    def _decode(self, vision: Any, images: slice, texts: slice, size: tuple[int, int]) -> list[Tensor]:
        """Decode some prompts for one image, or one prompt for some images; the best masks at the image's size."""
        rows = max(images.stop - images.start, texts.stop - texts.start)

        def row(values: Iterable[Tensor], part: slice) -> tuple[Tensor, ...]:
            return tuple(value[part].expand(rows, *value.shape[1:]) for value in values)

        features = type(vision)(
            fpn_hidden_states=row(vision.fpn_hidden_states, images),
            fpn_position_encoding=row(vision.fpn_position_encoding, images),
        )
        text, mask = row((self._text, self._mask), texts)
        embedded = transformers.modeling_outputs.BaseModelOutputWithPooling(pooler_output=text)
        found = self.model(vision_embeds=features, text_embeds=embedded, attention_mask=mask)
        scores = found.pred_logits.sigmoid() * found.presence_logits.sigmoid()
        best = scores.topk(self._masks, dim=1)
        boxes = found.pred_boxes.gather(1, best.indices[..., None].expand(-1, -1, 4))
        selected = [masks[chosen].sigmoid() for masks, chosen in zip(found.pred_masks, best.indices, strict=True)]
        resized = [functional.interpolate(one[None], size, mode="bilinear", align_corners=False)[0] for one in selected]
        best.values.cpu(), boxes.cpu()
        return [masks > 0.5 for masks in resized]


@torch.no_grad()
def measure_baseline(
    locked: CheckpointLock,
    location: str,
    *,
    resolution: int,
    settings: Mapping[str, Any],
    options: Options = DEFAULTS,
) -> Baseline:
    """Measure transformers' model at ``resolution`` pixels; ``location`` is where the locked weights are.

    ``settings`` are those of ``bench:``, where ``prompts`` is a number.
    """

    def make(device: torch.device, precision: Precision) -> Contender:
        model = load_model(locked.at(location), resolution)
        model.set_attn_implementation("sdpa")
        return Contender(model, settings["prompts"], settings["masks"], device, precision)

    return measure(locked, make, transformers, resolution=resolution, settings=settings, options=options)


def main() -> None:
    """Run the command."""
    bench = BenchSection()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a hub name, a folder, or random")
    parser.add_argument("--revision", help="of a hub checkpoint")
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images per round; several may be given")
    parser.add_argument("--prompts", type=int, default=len(bench.prompts), help="how many prompts")
    parser.add_argument("--masks", type=int, default=bench.masks, help="best masks to return of each prompt")
    for name in ("warmup", "windows", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(bench, name))
    parser.add_argument("--precision", choices=("float16", "float32"), help="default: float16 on a GPU")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("prompts", "masks", "warmup", "windows", "rounds")}
    settings["batches"] = sorted(set(arguments.batch))
    try:
        found = measure_baseline(
            lock(arguments.checkpoint, arguments.revision),
            arguments.checkpoint,
            resolution=arguments.resolution,
            settings=settings,
            options=Options(not arguments.no_compile, arguments.precision),
        )
        found.write(arguments.output)
    except Sam3Error as error:
        sys.exit(f"Error: {error}")
    for way in found.ways:
        for run in way.runs:
            print(f"{way.name}, {run.batch}: vision {run.vision.median:.2f} ms, round {run.end_to_end.median:.2f} ms")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
