"""Describe SAM3: the axes of its variants, their limits, table columns and notices. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sam3_runtime.core.wording import counted
from sam3_runtime.families.base import BATCH, RESOLUTION, Axis, Estimated, FamilySpec, Range, Refusal
from sam3_runtime.families.sam3.parts import MAX_BOXES, PARTS, ModelDims, fixed_dims


def _refuse(dims: ModelDims, values: Mapping[str, int]) -> Refusal | None:
    """Refuse a resolution that is not a whole number of patches, and more queries than the model's."""
    resolution, queries = values["resolution"], values["queries"]
    if resolution % dims.patch:
        below = resolution // dims.patch * dims.patch
        near = [str(size) for size in (below, below + dims.patch) if size > 0]
        return (
            f"resolution {resolution} is not a multiple of the patch size {dims.patch}",
            f"the nearest multiples of {dims.patch} are {' and '.join(near)}",
        )
    if queries > dims.queries:
        return f"queries {queries} is more than the model's {dims.queries}", f"use {dims.queries} or fewer"
    return None


def _ranges(dims: ModelDims, batch: int) -> dict[str, Range]:
    """Return the ranges; N is 1 or P, so that its range and tuned value are those of P."""
    return {
        "B": Range(1, batch, batch),
        "P": Range(1, batch, batch),
        "N": Range(1, batch, batch),
        "n": Range(1, min(8, MAX_BOXES), MAX_BOXES),
        "L": Range(1, dims.text_tokens, dims.max_prompt_tokens),
    }


def _sizes(part: str, values: Mapping[str, int]) -> Refusal | None:
    prompts = values.get("P", 1)
    if values.get("N", 1) in (1, prompts):
        return None
    return (
        f"the {part} got features of {counted(values['N'], 'image')} and {counted(prompts, 'prompt')}",
        "give the features of one image, or of one image for each prompt",
    )


_FULL_SIZE = 256  # channels of the full-size model
_SCRATCH_PER_TOKEN = 27 << 10  # bytes: 1 125 MiB at 1008 and 500 MiB at 672, batch 8, TensorRT-RTX 1.7 (docs/results)


def _scratch(dims: ModelDims, axes: Mapping[str, int]) -> int:
    return _SCRATCH_PER_TOKEN * axes[BATCH] * dims.grid(axes[RESOLUTION]) ** 2


SAM3 = FamilySpec(
    name="sam3",
    title="SAM3",
    axes=(Axis(BATCH, "b", 8), Axis("queries", "q", 50, place="file"), Axis(RESOLUTION, "r")),
    parts=PARTS,
    dims=ModelDims,
    dims_of=ModelDims.from_config,
    claims=lambda config: config.get("model_type") in ("sam3", "sam3_video"),
    hub=None,
    own_values=lambda dims: {RESOLUTION: dims.image_size},
    refuse=_refuse,
    fixed=lambda dims, axes: fixed_dims(dims, axes.get(RESOLUTION), axes.get("queries")),
    ranges=_ranges,
    sizes=_sizes,
    batched=("B", "P", "N"),
    columns={"agreement": "agreement", "mask IoU": "mask_iou"},
    accuracy={"box_ap": ("box", "ap"), "mask_ap": ("mask", "ap")},
    legend={
        "found": "`found` is the number of detections of the variant in the reference's images, `expected` that of "
        "float32 PyTorch, both over all calls of the decoder: with a batch above 1 each prompt is run three times. "
        "`agreement` is the share of detections of either side that both find, and `mask_iou` their mean IoU.",
        "box_ap": "`box_ap` and `mask_ap` are COCO's AP on the first images (`limit`) of `accuracy:`.",
    },
    full_size=lambda dims: dims.channels >= _FULL_SIZE,
    estimated=Estimated(
        parameters={"vision-encoder": 454.0e6, "text-encoder": 353.8e6, "geometry-encoder": 8.1e6, "decoder": 23.4e6},
        scratch=_scratch,
        made_of="weights: 840 million parameters in the requested precision; buffers: every tensor at the largest "
        "batch; scratch: 27 KiB for each token of each image, as measured; files: graphs, engines, 100 MB a reference",
    ),
    notice="The weights are Meta's, under the SAM License; see NOTICE. They are not covered by this project's.",
    archive_notice="""\
The engines in this folder contain the weights of the checkpoint that config.json names. The weights of
SAM 3 (facebook/sam3) are Meta's and come under the SAM License, which you accept where you download them
(https://huggingface.co/facebook/sam3). Passing these files on passes the weights on, and that licence applies.
The images in reference.safetensors and accuracy.safetensors are those that the variant was verified on and keep their
own licences.
""",
)
