"""Define the sections of ``variants.yaml`` that are a classifier's own. Pure: pydantic alone."""

from __future__ import annotations

from typing import Any, ClassVar

from sam3_runtime.core.sections import NonNegative, PicturesSection, Positive, RoundsSection, Section, Share


class ExportSection(Section):
    """How graphs are written: without any option."""


class OptimalSection(Section):
    """Sizes that TensorRT engines are tuned for."""

    B: Positive | None = None
    """Images; the batch when left out."""


class ReferenceSection(PicturesSection):
    """The photographs that engines are compared with float32 PyTorch on."""


class AccuracySection(Section):
    """Labelled images: the gate compares each variant's accuracy on them with that of float32 PyTorch."""

    KEY: ClassVar[str] = "folder"

    folder: str
    """A folder with a folder of images for each class, named by the class, its index or its synset (n02123045)."""
    limit: Positive = 100
    """Images that the gate measures, spread evenly over the classes."""

    def params(self) -> dict[str, Any]:
        """Return what jobs depend on."""
        return {"limit": self.limit}

    def paths(self) -> dict[str, str]:
        """Return the files and folders of the data set by their keys."""
        return {"folder": self.folder}


class BenchSection(RoundsSection):
    """What the benchmark runs on."""


class Limits(Section):
    """What a variant must reach against the float32 reference."""

    logit_cosine: Share = 0.999
    """Smallest cosine of the logits of an image."""
    top1: Share = 0.95
    """Smallest share of images with the reference's best class; of fewer than 20 images, all must agree."""
    top5: Share = 0.9
    """Smallest mean share of the reference's five best classes that are among the variant's."""
    top1_loss: NonNegative = 0.01
    """Largest loss of top-1 accuracy on the images of `accuracy:`; 0.01 is one image of 100."""
    top5_loss: NonNegative = 0.01
    """Largest loss of top-5 accuracy."""


class EightBitLimits(Limits):
    """Likewise for 8-bit models, which are expected to lose something."""

    logit_cosine: Share = 0.98
    top1: Share = 0.75
    """As for float; 0.75 lets one of four images change its best class, as one of two close classes may."""
    top5: Share = 0.7
    top1_loss: NonNegative = 0.03
    top5_loss: NonNegative = 0.02


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
