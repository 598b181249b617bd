"""Describe classifiers: the axes of their variants, their limits, table columns and notices. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sam3_runtime.families.base import BATCH, RESOLUTION, Axis, FamilySpec, Range, Refusal
from sam3_runtime.families.classifier.parts import MODEL, ClassifierDims

_SMALLEST = 32


def _refuse(_dims: ClassifierDims, axes: Mapping[str, int]) -> Refusal | None:
    """Refuse sizes that no model supports: models halve images about five times. timm checks others at the export."""
    if axes[RESOLUTION] < _SMALLEST:
        return f"resolution {axes[RESOLUTION]} is less than {_SMALLEST}", f"use {_SMALLEST} or more"
    return None


CLASSIFIER = FamilySpec(
    name="classifier",
    title="classifier",
    axes=(Axis(BATCH, "b", 8), Axis(RESOLUTION, "r", 224)),
    parts={MODEL.name: MODEL},
    dims=ClassifierDims,
    dims_of=ClassifierDims.from_config,
    claims=lambda config: "architecture" in config and "pretrained_cfg" in config,
    hub="timm",
    own_values=lambda _dims: {},
    refuse=_refuse,
    fixed=lambda dims, axes: {"K": dims.classes, "R": axes[RESOLUTION]},
    ranges=lambda _dims, batch: {"B": Range(1, batch, batch)},
    batched=("B",),
    columns={"top-1 agreement": "top1", "top-5 agreement": "top5"},
    accuracy={"top1_acc": ("top1",), "top5_acc": ("top5",)},
    legend={
        "top1": "`top1` is the share of images whose best class is that of float32 PyTorch, `top5` the mean share of "
        "its five best classes that are among the variant's.",
        "top1_acc": "`top1_acc` and `top5_acc` are the accuracy on the images (`limit`) of `accuracy:`.",
    },
    notice="The weights are of the checkpoint's authors, under its licence. They are not covered by this project's.",
    archive_notice="""\
The engines in this folder contain the weights of the checkpoint that config.json names, under the licence of its
authors. Passing these files on passes the weights on, and that licence applies. The images in
reference.safetensors and accuracy.safetensors are those that the variant was verified on and keep their own licences.
""",
)
