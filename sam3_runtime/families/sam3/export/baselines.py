"""Measures what a user has without this project: transformers with SDPA, and the same with ``torch.compile``.

    python -m sam3_runtime.families.sam3.export.baselines --checkpoint random --resolution 672 --output baseline.json

On the GPU where there is one, in float16; otherwise on the CPU in float32. Timed are the vision encoder (pixels on the
device) and a round end to end, as ``measure/benchmark.py`` has it: pictures in the host's memory are resized on the
device, every prompt looks at every picture, and the best masks of each are brought to the picture's size. They
stay on the device, where transformers leaves them; boxes and scores come to the host. Text is encoded beforehand. The
device is waited for before each reading of the clock. Times do not depend on what is seen, so pictures and words are
random. Knows transformers 5.17 and newer; judges nothing.
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
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.families.sam3.export.checkpoint import lock
from sam3_runtime.families.sam3.export.weights import load_model
from sam3_runtime.families.sam3.settings import BenchSection
from sam3_runtime.graphs.baselines import Precision, measure
from sam3_runtime.records.measurements import Baseline
from sam3_runtime.records.records import CheckpointLock

PICTURE = (720, 1280)
"""Height and width of the pictures."""
_WORDS = 8  # valid tokens of each prompt
_IDS = 512  # a small checkpoint has no more
_COMPILED = ("vision_encoder", "detr_encoder", "detr_decoder", "mask_decoder")


class Contender:
    """``Sam3Model`` on its device, looking for ``prompts`` things at once."""

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
        """Compile the model's parts in place, each shape for itself."""
        for name in _COMPILED:
            getattr(self.model, name).compile(mode="default", dynamic=False, backend=backend)

    def preprocess(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """RGB uint8 [H, W, 3] of one size → [B, 3, R, R] from -1 to 1, resized as transformers does it on a GPU."""
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2).float()
        size = (self.resolution, self.resolution)
        resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        return (resized.round_().clamp_(0, 255) / 127.5 - 1).to(self.dtype)

    def see(self, pixels: Tensor) -> Any:
        """Vision encoder."""
        return self.model.get_vision_features(pixels)

    def answer(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """One round; in as few calls as there can be: all prompts on a picture, or all pictures for a prompt."""
        seen = self.see(self.preprocess(pictures))
        size = pictures[0].shape[:2]
        count, prompts = len(pictures), len(self._text)
        if count <= prompts:
            calls = [(slice(place, place + 1), slice(0, prompts)) for place in range(count)]
        else:
            calls = [(slice(0, count), slice(place, place + 1)) for place in range(prompts)]
        return [mask for images, texts in calls for mask in self._decode(seen, images, texts, size)]

    def _decode(self, seen: Any, images: slice, texts: slice, size: tuple[int, int]) -> list[Tensor]:
        """Some prompts on one picture, or one prompt on some pictures: the masks kept, at the picture's size."""
        rows = max(images.stop - images.start, texts.stop - texts.start)

        def row(values: Iterable[Tensor], part: slice) -> tuple[Tensor, ...]:
            return tuple(value[part].expand(rows, *value.shape[1:]) for value in values)

        features = type(seen)(
            fpn_hidden_states=row(seen.fpn_hidden_states, images),
            fpn_position_encoding=row(seen.fpn_position_encoding, images),
        )
        text, mask = row((self._text, self._mask), texts)
        embedded = transformers.modeling_outputs.BaseModelOutputWithPooling(pooler_output=text)
        said = self.model(vision_embeds=features, text_embeds=embedded, attention_mask=mask)
        scores = said.pred_logits.sigmoid() * said.presence_logits.sigmoid()
        best = scores.topk(self._masks, dim=1)
        boxes = said.pred_boxes.gather(1, best.indices[..., None].expand(-1, -1, 4))
        kept = [found[chosen].sigmoid() for found, chosen in zip(said.pred_masks, best.indices, strict=True)]
        masks = [functional.interpolate(one[None], size, mode="bilinear", align_corners=False)[0] > 0.5 for one in kept]
        best.values.cpu(), boxes.cpu()
        return masks


@torch.no_grad()
def measure_baseline(
    locked: CheckpointLock,
    location: str,
    *,
    resolution: int,
    settings: Mapping[str, Any],
    compiled: bool = True,
    precision: Precision | None = None,
    backend: str = "inductor",
) -> Baseline:
    """Measure both ways at ``resolution``, at each of ``settings["batches"]`` pictures a round.

    ``locked`` names the weights, ``location`` says where they are. Of ``settings``, those of ``bench:`` count here:
    ``prompts`` (a number), ``masks``, ``warmup``, ``windows`` and ``rounds``. ``backend`` is ``torch.compile``'s.
    """

    def make(device: torch.device, precision: Precision) -> Contender:
        model = load_model(locked.at(location), resolution)
        model.set_attn_implementation("sdpa")
        return Contender(model, settings["prompts"], settings["masks"], device, precision)

    return measure(
        locked,
        make,
        "transformers",
        resolution=resolution,
        settings=settings,
        picture=PICTURE,
        versions={"transformers": transformers.__version__},
        compiled=compiled,
        precision=precision,
        backend=backend,
    )


def main() -> None:
    bench = BenchSection()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a hub name, a folder, or random")
    parser.add_argument("--revision", help="of a hub checkpoint")
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="pictures a round; several may be given")
    parser.add_argument("--prompts", type=int, default=len(bench.prompts), help="how many things are looked for")
    parser.add_argument("--masks", type=int, default=bench.masks, help="best masks kept of each prompt")
    for name in ("warmup", "windows", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(bench, name))
    parser.add_argument("--precision", choices=("float16", "float32"), help="float16 on a GPU when left out")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
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
            compiled=not arguments.no_compile,
            precision=arguments.precision,
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
