"""The contract between export, build and runtime: the four parts of SAM3, their tensors, and what each depends on.

Pure: no tensor library is imported. Shapes are tuples of integers and symbols; the symbols are

    B images, P prompts, N images seen by the decoder (1 or P), n boxes of a prompt, L prompt tokens   (dynamic)
    R resolution in pixels, g = R / patch, Q queries kept, C channels, T text tokens                    (fixed)

and ``2g``, ``4g``, ``n+1`` are what they look like. Nothing here knows a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Dim = int | str
Shape = tuple[Dim, ...]
Axis = Literal["batch", "resolution", "queries", "quantize"]
PartName = Literal["vision-encoder", "text-encoder", "geometry-encoder", "decoder"]

MAX_BOXES = 27
"""Example boxes of one prompt, at most: with the text's 32 tokens and the CLS token they make 60."""
BOX_PADDING_LABEL = -10
"""Label of a box that only fills the row up (transformers' convention); 1 is positive, 0 negative."""


@dataclass(frozen=True)
class ModelDims:
    """The numbers of a checkpoint that shapes depend on. The defaults are those of facebook/sam3.

    They ship with the project so that planning needs neither network nor weights.
    """

    patch: int = 14  # pixels
    window: int = 24  # patches
    queries: int = 200
    channels: int = 256
    text_tokens: int = 32
    image_size: int = 1008  # pixels; the resolution that the checkpoint was trained at

    def grid(self, resolution: int) -> int:
        """Patches along one side of an image of ``resolution`` pixels."""
        return resolution // self.patch

    @property
    def max_prompt_tokens(self) -> int:
        return self.text_tokens + MAX_BOXES + 1

    def to_dict(self) -> dict[str, int]:
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


@dataclass(frozen=True)
class Tensor:
    """A named input or output. ``dtype`` is ``float`` where the graph's own precision decides.

    Coordinates are ``float32`` in every precision: float16 has steps of half a pixel at 1008, and they cost nothing.
    """

    name: str
    shape: Shape
    dtype: Literal["float", "float32", "int64", "bool"] = "float"


@dataclass(frozen=True)
class Part:
    """One of the graphs that SAM3 is cut into.

    ``depends_on`` names the axes of a variant that an *engine* of the part differs by; a graph does not depend on
    the batch. ``external_data`` says whether the graph keeps its weights in a ``.onnx.data`` file beside it; ``code``
    names the modules that decide what is in it.
    """

    name: PartName
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    depends_on: tuple[Axis, ...]
    external_data: bool
    code: tuple[str, ...]

    @property
    def eight_bit(self) -> bool:
        """Whether it may be quantised."""
        return "quantize" in self.depends_on

    def input(self, name: str) -> Tensor:
        return next(tensor for tensor in self.inputs if tensor.name == name)

    def graph_axes(self, resolution: int, queries: int) -> dict[str, Any]:
        """Those of the two that a graph of the part differs by, by the axis' name."""
        given = {"resolution": resolution, "queries": queries}
        return {axis: value for axis, value in given.items() if axis in self.depends_on}

    @property
    def dynamic_dims(self) -> tuple[str, ...]:
        """The dynamic symbols of the inputs, in order of appearance."""
        seen = dict.fromkeys(dim for tensor in self.inputs for dim in tensor.shape if dim in DYNAMIC_DIMS)
        return tuple(str(dim) for dim in seen)


DYNAMIC_DIMS = ("B", "P", "N", "n", "L")

_FPN_2 = ("C", "g", "g")

PARTS: dict[PartName, Part] = {
    part.name: part
    for part in (
        Part(
            "vision-encoder",
            inputs=(Tensor("images", ("B", 3, "R", "R")),),
            outputs=(
                Tensor("fpn_feat_0", ("B", "C", "4g", "4g")),
                Tensor("fpn_feat_1", ("B", "C", "2g", "2g")),
                Tensor("fpn_feat_2", ("B", *_FPN_2)),
                Tensor("fpn_pos_2", (1, *_FPN_2)),
            ),
            depends_on=("batch", "resolution", "quantize"),
            external_data=True,
            code=("families/sam3/export/vision",),
        ),
        Part(
            "text-encoder",
            inputs=(Tensor("input_ids", ("P", "T"), "int64"), Tensor("attention_mask", ("P", "T"), "int64")),
            outputs=(Tensor("text_features", ("P", "T", "C")), Tensor("text_mask", ("P", "T"), "bool")),
            depends_on=("batch",),
            external_data=True,
            code=("families/sam3/export/text",),
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
            depends_on=("batch", "resolution"),
            external_data=False,
            code=("families/sam3/export/geometry",),
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
            depends_on=("batch", "resolution", "queries"),
            external_data=False,
            code=("families/sam3/export/decoder",),
        ),
    )
}
PART_NAMES: tuple[PartName, ...] = get_args(PartName)


def fixed_dims(dims: ModelDims, resolution: int | None = None, queries: int | None = None) -> dict[str, int]:
    """Values of the symbols that a graph fixes; ``R``, ``g`` and ``Q`` only where they are given."""
    values = {"C": dims.channels, "T": dims.text_tokens}
    if resolution is not None:
        grid = dims.grid(resolution)
        values |= {"R": resolution, "g": grid, "2g": 2 * grid, "4g": 4 * grid}
    if queries is not None:
        values["Q"] = queries
    return values


def resolve(shape: Shape, values: Mapping[str, int]) -> Shape:
    """Replace the symbols in ``shape`` that ``values`` knows; ``n+1`` follows from ``n``."""
    known = dict(values)
    if "n" in known:
        known["n+1"] = known["n"] + 1
    return tuple(known.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)


@dataclass(frozen=True)
class Range:
    """What a dynamic dimension may be, and the value that the engine is tuned for."""

    min: int
    opt: int
    max: int


def profile(part: Part, dims: ModelDims, batch: int, optimal: Mapping[str, int] | None = None) -> dict[str, Range]:
    """The range of every dynamic dimension of ``part`` for engines of a variant with this ``batch``.

    N is 1 or P: its range is that of P, and the tuned value is P's too. ``optimal`` replaces tuned values by symbol.
    """
    ranges = {
        "B": Range(1, batch, batch),
        "P": Range(1, batch, batch),
        "N": Range(1, batch, batch),
        "n": Range(1, min(8, MAX_BOXES), MAX_BOXES),
        "L": Range(1, dims.text_tokens, dims.max_prompt_tokens),
    }
    chosen = {dim: ranges[dim] for dim in part.dynamic_dims}
    for dim, value in (optimal or {}).items():
        if dim in chosen:
            low, high = chosen[dim].min, chosen[dim].max
            chosen[dim] = Range(low, min(max(value, low), high), high)
    return chosen


GRAPH_NAME = re.compile(r"(?P<part>vision-encoder|text-encoder|geometry-encoder|decoder)(?:_q\d+|_int8|_fp8|_fp32)?")


def part_of_graph(stem: str) -> Part:
    """The part that a graph or engine file such as ``decoder_q50`` or ``vision-encoder_int8`` belongs to.

    ``_fp32`` is the float32 form that 8 bits start from where the backend reads none of float16 (:mod:`planning`).
    """
    match = GRAPH_NAME.fullmatch(stem)
    if match is None:
        raise KeyError(f"{stem!r} names no part of SAM3; the parts are {', '.join(PART_NAMES)}")
    name: PartName = match["part"]  # type: ignore[assignment]
    return PARTS[name]
