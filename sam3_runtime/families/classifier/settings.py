"""The sections of ``variants.yaml`` that are a classifier's own. Pure: pydantic alone."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from sam3_runtime.plan.sections import NonNegative, PicturesSection, Positive, RoundsSection, Section, Share


class ExportSection(Section):
    """How graphs are written: there is nothing to choose."""


class OptimalSection(Section):
    """Sizes that TensorRT engines are tuned for."""

    B: Positive | None = Field(None, description="images; the batch when left out")


class ReferenceSection(PicturesSection):
    """The photographs that engines are compared with float32 PyTorch on."""


class AccuracySection(Section):
    """Labelled pictures: the gate holds each variant's accuracy on them against float32 PyTorch's."""

    KEY: ClassVar[str] = "folder"

    folder: str = Field(
        description="a folder with one of pictures for each class, called by the class's name, its index, or its "
        "synset (n02123045) where the labels have those"
    )
    limit: Positive = Field(100, description="pictures that the gate looks at, spread evenly over the classes")

    def params(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def paths(self) -> dict[str, str]:
        return {"folder": self.folder}


class BenchSection(RoundsSection):
    """What the benchmark runs on."""


class Limits(Section):
    """What a variant must reach against the float32 reference."""

    logit_cosine: Share = Field(0.999, description="of the logits of each picture, at least")
    top1: Share = Field(
        0.95,
        description="share of pictures with the reference's best class, at least; of fewer than 20 pictures, as the "
        "default reference has, that is all of them",
    )
    top5: Share = Field(
        0.9, description="mean share of the reference's five best classes that are among the variant's, at least"
    )
    top1_loss: NonNegative = Field(
        0.01,
        description="top-1 accuracy below the reference's on the pictures of `accuracy:`, at most; 0.01 is one "
        "picture of 100",
    )
    top5_loss: NonNegative = Field(0.01, description="likewise, of top-5 accuracy")


class EightBitLimits(Limits):
    """Likewise for 8-bit models, which are expected to lose something."""

    logit_cosine: Share = 0.98
    top1: Share = Field(
        0.75,
        description="as for float; 0.75 lets one of four pictures, as the default reference has, change its best "
        "class: where two classes are close to each other, 8 bits decide. `accuracy:` says whether that costs anything",
    )
    top5: Share = 0.7
    top1_loss: NonNegative = 0.03
    top5_loss: NonNegative = 0.02


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
