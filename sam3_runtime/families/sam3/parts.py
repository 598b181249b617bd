"""Define the parts that SAM3 is split into, their tensors, and the dimensions of a checkpoint they depend on.

Shapes are tuples of integers and symbols; the symbols are

    B images, P prompts, N images seen by the decoder (1 or P), n boxes of a prompt, L prompt tokens   (dynamic)
    R resolution in pixels, g = R / patch, Q queries retained, C channels, T text tokens                    (fixed)

and ``2g``, ``4g``, ``n+1`` follow from these. Pure: no path and no tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sam3_runtime.families.base import BATCH, QUANTIZE, RESOLUTION, Part, Tensor

PartName = Literal["vision-encoder", "text-encoder", "geometry-encoder", "decoder"]

MAX_BOXES = 27
"""The most example boxes of one prompt: with the text's 32 tokens and the CLS token they make 60."""
BOX_PADDING_LABEL = -10
"""Label of a padding box (transformers' convention); 1 is positive, 0 negative."""


@dataclass(frozen=True)
class ModelDims:
    """The dimensions of a checkpoint that shapes depend on. The defaults are those of facebook/sam3.

    They ship with the project so that planning needs neither network nor weights.
    """

    patch: int = 14  # pixels
    window: int = 24  # patches
    queries: int = 200
    channels: int = 256
    text_tokens: int = 32
    image_size: int = 1008  # pixels; the resolution that the checkpoint was trained at

    def grid(self, resolution: int) -> int:
        """Return the patches along one side of an image of ``resolution`` pixels."""
        return resolution // self.patch

    @property
    def max_prompt_tokens(self) -> int:
        """The most tokens of one prompt: text, boxes and the CLS token."""
        return self.text_tokens + MAX_BOXES + 1

    def to_dict(self) -> dict[str, int]:
        """Return the dimensions as a record has them."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelDims:
        """Read the dimensions from the content of a checkpoint's ``config.json``.

        Both layouts are understood: that of ``Sam3Model`` and that of the video model, which nests the detector
        under ``detector_config`` (facebook/sam3 itself). transformers leaves out what equals its own default, and
        its defaults are facebook/sam3's: so are ours.
        """
        detector = config.get("detector_config") or config
        vision = detector.get("vision_config") or {}
        backbone = vision.get("backbone_config") or {}
        return cls(
            patch=_side(backbone.get("patch_size", cls.patch)),
            window=backbone.get("window_size", cls.window),
            queries=(detector.get("detr_decoder_config") or {}).get("num_queries", cls.queries),
            channels=vision.get("fpn_hidden_size", cls.channels),
            text_tokens=(detector.get("text_config") or {}).get("max_position_embeddings", cls.text_tokens),
            image_size=_side(backbone.get("image_size", cls.image_size)),
        )


def _side(value: int | list[int]) -> int:
    return value if isinstance(value, int) else value[0]


_GRAPH = "families/sam3/export/graph"
_FPN_2 = ("C", "g", "g")

_LISTED = (
    Part(
        "vision-encoder",
        inputs=(Tensor("images", ("B", 3, "R", "R")),),
        outputs=(
            Tensor("fpn_feat_0", ("B", "C", "4g", "4g")),
            Tensor("fpn_feat_1", ("B", "C", "2g", "2g")),
            Tensor("fpn_feat_2", ("B", *_FPN_2)),
            Tensor("fpn_pos_2", (1, *_FPN_2)),
        ),
        depends_on=(BATCH, RESOLUTION, QUANTIZE),
        external_data=True,
        dynamic=("B",),
        code=(_GRAPH, "families/sam3/export/vision"),
        stage="vision",
        label="vision, {images} at once",
    ),
    Part(
        "text-encoder",
        inputs=(Tensor("input_ids", ("P", "T"), "int64"), Tensor("attention_mask", ("P", "T"), "int64")),
        outputs=(Tensor("text_features", ("P", "T", "C")), Tensor("text_mask", ("P", "T"), "bool")),
        depends_on=(BATCH,),
        external_data=True,
        dynamic=("P",),
        code=(_GRAPH, "families/sam3/export/text"),
        on_demand=True,
        assets=("tokenizer.json",),
        label="text, P={prompts}",
    ),
    Part(
        "geometry-encoder",
        inputs=(
            Tensor("input_boxes", ("P", "n", 4), "float32"),
            Tensor("input_boxes_labels", ("P", "n"), "int64"),
            Tensor("fpn_feat_2", ("N", *_FPN_2)),
            Tensor("fpn_pos_2", (1, *_FPN_2)),
        ),
        outputs=(
            Tensor("geometry_features", ("P", "n+1", "C")),
            Tensor("geometry_mask", ("P", "n+1"), "bool"),
        ),
        depends_on=(BATCH, RESOLUTION),
        external_data=False,
        dynamic=("P", "n", "N"),
        code=(_GRAPH, "families/sam3/export/geometry"),
        label="geometry, P={prompts}",
    ),
    Part(
        "decoder",
        inputs=(
            Tensor("fpn_feat_0", ("N", "C", "4g", "4g")),
            Tensor("fpn_feat_1", ("N", "C", "2g", "2g")),
            Tensor("fpn_feat_2", ("N", *_FPN_2)),
            Tensor("fpn_pos_2", (1, *_FPN_2)),
            Tensor("prompt_features", ("P", "L", "C")),
            Tensor("prompt_mask", ("P", "L"), "bool"),
        ),
        outputs=(
            Tensor("pred_masks", ("P", "Q", "4g", "4g")),
            Tensor("pred_boxes", ("P", "Q", 4), "float32"),
            Tensor("pred_logits", ("P", "Q")),
            Tensor("presence_logits", ("P", 1)),
            Tensor("query_index", ("P", "Q"), "int64"),
        ),
        depends_on=(BATCH, RESOLUTION, "queries"),
        external_data=False,
        dynamic=("N", "P", "L"),
        code=(_GRAPH, "families/sam3/export/decoder"),
        stage="decoder",
        label="decoder, P={prompts} N={images}",
    ),
)
PARTS: dict[str, Part] = {part.name: part for part in _LISTED}
PART_NAMES: tuple[PartName, ...] = get_args(PartName)


def fixed_dims(dims: ModelDims, resolution: int | None = None, queries: int | None = None) -> dict[str, int]:
    """Return the symbols that a graph fixes; ``R``, ``g`` and ``Q`` only where they are given."""
    values = {"C": dims.channels, "T": dims.text_tokens}
    if resolution is not None:
        grid = dims.grid(resolution)
        values |= {"R": resolution, "g": grid, "2g": 2 * grid, "4g": 4 * grid}
    if queries is not None:
        values["Q"] = queries
    return values
