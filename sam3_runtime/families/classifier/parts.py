"""Define a classifier's one part, and the dimensions of a checkpoint that it depends on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import Self

from sam3_runtime.families.base import BATCH, QUANTIZE, RESOLUTION, Part, Tensor

LABELS = "labels.json"
"""The file of class names beside the engines."""


@dataclass(frozen=True)
class ClassifierDims:
    """``classes`` K; ``image_size``, the side in pixels of the images that the checkpoint was trained on."""

    classes: int = 1000
    image_size: int = 224

    def to_dict(self) -> dict[str, int]:
        """Return the dimensions as a record has them."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read from the content of a ``config.json`` in timm's form."""
        trained = config.get("pretrained_cfg") or {}
        size = trained.get("input_size") or (3, cls.image_size, cls.image_size)
        return cls(int(config.get("num_classes", trained.get("num_classes", cls.classes))), int(size[-1]))


MODEL = Part(
    "model",
    inputs=(Tensor("images", ("B", 3, "R", "R")),),
    outputs=(Tensor("logits", ("B", "K"), "float32"),),
    dynamic=("B",),
    depends_on=(BATCH, RESOLUTION, QUANTIZE),
    external_data=True,
    code=("families/classifier/export/graph",),
    assets=(LABELS,),
    stage="model",
)
"""Images B of R × R pixels, and the logits of K classes."""
