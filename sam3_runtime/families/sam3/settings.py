"""The sections of ``variants.yaml`` that are SAM3's own: what its values may be, and what they are when left out.

Pure: pydantic alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from sam3_runtime.plan.sections import NonNegative, PicturesSection, Positive, RoundsSection, Section, Share


class ExportSection(Section):
    """How graphs are written."""

    attention: Literal["fusable", "plain"] = Field(
        "fusable",
        description="fusable scales Q and K before their product, the form that TensorRT fuses; plain after it",
    )


class OptimalSection(Section):
    """Sizes that TensorRT engines are tuned for; what is left out is the contract's."""

    B: Positive | None = Field(None, description="images of the vision encoder; the batch when left out")
    P: Positive | None = Field(None, description="prompts of the other parts; the batch when left out")
    N: Positive | None = Field(None, description="images that the decoder's prompts are about, 1 or P; P when left out")
    n: Positive | None = Field(None, description="boxes of a prompt; 8 when left out")
    L: Positive | None = Field(None, description="tokens of a prompt; 32 when left out")


class ReferenceSection(PicturesSection):
    """The photographs and words that engines are compared with float32 PyTorch on."""

    prompts: list[str] = Field(default=["person", "cat", "cup"], min_length=1)
    threshold: Share | Literal["auto"] = Field(
        "auto",
        description="score that a detection must pass; auto is 0.3, or a gap in the scores where none passes that",
    )

    def params(self) -> dict[str, Any]:
        return {"prompts": self.prompts, "threshold": None if self.threshold == "auto" else self.threshold}


class AccuracySection(Section):
    """A data set with ground truth: the gate holds each variant's AP on it against float32 PyTorch's."""

    KEY: ClassVar[str] = "annotations"

    annotations: str = Field(description="COCO file whose categories are phrases; docs/evaluation.md says more")
    images: str | None = Field(None, description="folder of its pictures; that of the annotations when left out")
    limit: Positive = Field(50, description="pictures that the gate looks at: the first ones")

    def params(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def paths(self) -> dict[str, str]:
        return {"annotations": self.annotations} | ({"images": self.images} if self.images else {})


class BenchSection(RoundsSection):
    """What the benchmark runs on."""

    prompts: list[str] = Field(default=["person", "cat", "cup", "car"], min_length=1)
    masks: Positive = Field(20, description="best masks kept of each prompt where the weights detect nothing")

    def baseline(self) -> dict[str, Any]:
        return super().baseline() | {"masks": self.masks, "prompts": len(self.prompts)}


class Limits(Section):
    """What a variant must reach against the float32 reference."""

    feature_cosine: Share = Field(0.999, description="of each FPN level, text and geometry features, at least")
    logit_error: NonNegative = Field(0.1, description="largest error of a logit, at most, matched by query")
    presence_error: NonNegative = Field(
        0.2, description="largest error of the logit that says whether the concept is there at all, at most"
    )
    box_error: NonNegative = Field(
        0.01, description="largest error of a detection's box, at most, as a share of the picture's side"
    )
    mask_cosine: Share = Field(0.999, description="of mask logits, at least, matched by query")
    agreement: Share = Field(0.95, description="share of detections that both sides keep, at least")
    box_iou: Share = Field(0.95, description="mean over the detections that both keep, at least")
    mask_iou: Share = Field(0.95, description="likewise, of masks at the picture's size")
    ap_loss: NonNegative = Field(
        0.005, description="AP of boxes and of masks below the reference's on the data set of `accuracy:`, at most"
    )


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

    float: Limits = Field(default=Limits(), description="for fp32 and fp16")
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
