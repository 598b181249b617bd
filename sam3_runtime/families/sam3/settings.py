"""Define the sections of ``variants.yaml`` that are SAM3's own. Pure: pydantic alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from sam3_runtime.core.sections import NonNegative, PicturesSection, Positive, RoundsSection, Section, Share


class ExportSection(Section):
    """How graphs are written."""

    attention: Literal["fusable", "plain"] = "fusable"
    """`fusable` scales Q and K before their product, the form that TensorRT fuses; `plain` after it."""


class OptimalSection(Section):
    """Sizes that TensorRT engines are tuned for."""

    B: Positive | None = None
    """Images of the vision encoder; the batch when left out."""
    P: Positive | None = None
    """Prompts of the other parts; the batch when left out."""
    N: Positive | None = None
    """Images of the decoder's prompts, 1 or P; P when left out."""
    n: Positive | None = None
    """Boxes of a prompt; 8 when left out."""
    L: Positive | None = None
    """Tokens of a prompt; 32 when left out."""


class ReferenceSection(PicturesSection):
    """The photographs and words that engines are compared with float32 PyTorch on."""

    prompts: list[str] = Field(default=["person", "cat", "cup"], min_length=1)
    threshold: Share | Literal["auto"] = "auto"
    """Score that a detection must exceed; `auto` is 0.3, or a gap in the scores where none exceeds that."""

    def params(self) -> dict[str, Any]:
        """Return what jobs depend on."""
        return {"prompts": self.prompts, "threshold": None if self.threshold == "auto" else self.threshold}


class AccuracySection(Section):
    """A data set with ground truth: the gate compares each variant's AP on it with that of float32 PyTorch."""

    KEY: ClassVar[str] = "annotations"

    annotations: str
    """COCO file whose categories are phrases; see docs/evaluation.md."""
    images: str | None = None
    """Folder of its images; that of the annotations when left out."""
    limit: Positive = 50
    """Images that the gate measures: the first ones."""

    def params(self) -> dict[str, Any]:
        """Return what jobs depend on."""
        return {"limit": self.limit}

    def paths(self) -> dict[str, str]:
        """Return the files and folders of the data set by their keys."""
        return {"annotations": self.annotations} | ({"images": self.images} if self.images else {})


class BenchSection(RoundsSection):
    """What the benchmark runs on."""

    prompts: list[str] = Field(default=["person", "cat", "cup", "car"], min_length=1)
    masks: Positive = 20
    """Best masks to retain for each prompt where the weights detect nothing."""

    def baseline(self) -> dict[str, Any]:
        """Return the settings for measuring the model in its own library."""
        return super().baseline() | {"masks": self.masks, "prompts": len(self.prompts)}


class Limits(Section):
    """What a variant must reach against the float32 reference."""

    feature_cosine: Share = 0.999
    """Smallest cosine of each FPN level, and of text and geometry features."""
    logit_error: NonNegative = 0.1
    """Largest error of a logit, matched by query."""
    presence_error: NonNegative = 0.2
    """Largest error of the presence logit: whether the concept is in the image at all."""
    box_error: NonNegative = 0.01
    """Largest error of a detection's box, as a share of the image's side."""
    mask_cosine: Share = 0.999
    """Smallest cosine of mask logits, matched by query."""
    agreement: Share = 0.95
    """Smallest share of detections that both sides find."""
    box_iou: Share = 0.95
    """Smallest mean over the detections that both find."""
    mask_iou: Share = 0.95
    """Likewise, of masks at the image's size."""
    ap_loss: NonNegative = 0.005
    """Largest loss of the AP of boxes and of masks on the data set of `accuracy:`."""


class EightBitLimits(Limits):
    """Likewise for 8-bit vision encoders, which are expected to lose something."""

    feature_cosine: Share = 0.97
    logit_error: NonNegative = 2.0
    presence_error: NonNegative = 2.0
    box_error: NonNegative = 0.05
    mask_cosine: Share = 0.95
    agreement: Share = 0.7
    box_iou: Share = 0.85
    mask_iou: Share = 0.8
    ap_loss: NonNegative = 0.015


class GateSection(Section):
    """The accuracy gate. Changing it rebuilds nothing."""

    float: Limits = Limits()
    """Limits for fp32 and fp16."""
    int8: EightBitLimits = EightBitLimits()
    fp8: EightBitLimits = EightBitLimits()


SECTIONS: dict[str, Any] = {
    "export": ExportSection,
    "optimal": OptimalSection,
    "reference": ReferenceSection,
    "accuracy": AccuracySection,
    "bench": BenchSection,
    "gate": GateSection,
}
