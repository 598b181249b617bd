"""What a family of models tells the build: its parts and their tensors, the axes that its variants differ by, and what
they may be.

Names, matrices, the schema of ``variants.yaml``, the ids of graphs and engines, profiles and records follow from it.
What a family does at job time and when it runs is in modules of its own, which :mod:`sam3_runtime.families` finds.
Pure: standard library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

BATCH = "batch"
"""An axis that every family has: images at once. Engines differ by it, graphs do not."""
RESOLUTION = "resolution"
"""Likewise: the side of the square that images are brought to, in pixels. References and scales differ by it."""
QUANTIZE = "quantize"
"""In ``depends_on`` of a part that may be in 8 bits."""
EIGHT_BIT = ("int8", "fp8")
Place = Literal["folder", "file"]
Refusal = tuple[str, str]
"""What is wrong, and what to do."""
Dim = int | str
Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Axis:
    """One choice of a variant. ``letter`` stands for it in names (``q50``); ``default`` is what a matrix that leaves it
    out means, or None for the checkpoint's own; ``place`` says whether the folder or the file of a graph has it."""

    key: str
    letter: str
    default: int | None = None
    place: Place = "folder"


@dataclass(frozen=True)
class Tensor:
    """A named input or output. ``dtype`` is ``float`` where the graph's own precision decides.

    Shapes are tuples of integers and symbols, which the family explains. ``n+1`` is one more than ``n``.
    """

    name: str
    shape: Shape
    dtype: Literal["float", "float32", "int64", "bool"] = "float"


@dataclass(frozen=True)
class Range:
    """What a dynamic dimension may be, and the value that the engine is tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Part:
    """One of the graphs that a model is cut into.

    ``dynamic`` are the symbols of its inputs that differ from call to call, ``depends_on`` the axes of a variant that
    an *engine* of the part differs by; a graph does not depend on the batch. ``external_data`` says whether the graph
    keeps its weights in a ``.onnx.data`` file beside it; ``code`` names the modules that decide what is in it.
    ``assets`` are files beside the engine that running it needs. ``on_demand``: it leaves the GPU's memory while it is
    not needed. ``stage`` is the part's in a round of the benchmark, where it has one of its own; ``label`` is what
    tables call a measurement of it.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dynamic: tuple[str, ...]
    depends_on: tuple[str, ...]
    external_data: bool
    code: tuple[str, ...]
    assets: tuple[str, ...] = ()
    on_demand: bool = False
    stage: str = ""
    label: str = "{part}, {images} at once"

    @property
    def eight_bit(self) -> bool:
        """Whether it may be quantised."""
        return QUANTIZE in self.depends_on

    def graph_axes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``values`` that a graph of it differs by."""
        return {axis: value for axis, value in values.items() if axis in self.depends_on and axis != BATCH}

    def input(self, name: str) -> Tensor:
        return next(tensor for tensor in self.inputs if tensor.name == name)


def _none(*_: Any) -> None:
    return None


@dataclass(frozen=True, eq=False)
class FamilySpec:
    """A family. ``axes`` are in the order in which a variant's name has them.

    ``dims_of`` reads a checkpoint's dimensions from its ``config.json``; ``dims`` makes them again from a record.
    ``claims`` says whether such a configuration is of this family; ``hub`` is who on the hub has models of it
    alone. ``own_values`` gives a checkpoint's own value of the axes without a default; ``refuse`` says why a model
    of those dimensions cannot have such values, and nothing where it can. ``fixed`` gives the symbols that a graph
    fixes, from the dimensions and the axes that are given; ``ranges`` those that differ from call to call, from the
    dimensions and the batch; ``sizes`` says what is wrong with values of the latter for a part. ``batched`` are the
    symbols whose limit is the batch.

    ``columns`` are the table's for checks of the gate, by the check's name; ``accuracy`` its columns for what was
    measured on a data set, each with its place there; ``legend`` says, by the first column that it is about, what they
    mean. ``full_size`` says whether an export needs most of a machine's
    memory, so that one runs at a time. ``notice`` is about the licence of the weights, ``archive_notice`` what travels
    with them.
    """

    name: str
    title: str
    axes: tuple[Axis, ...]
    parts: Mapping[str, Part]
    dims: Callable[..., Any]
    dims_of: Callable[[Mapping[str, Any]], Any]
    claims: Callable[[Mapping[str, Any]], bool]
    hub: str | None
    own_values: Callable[[Any], Mapping[str, int]]
    refuse: Callable[[Any, Mapping[str, int]], Refusal | None]
    fixed: Callable[[Any, Mapping[str, int]], dict[str, int]]
    ranges: Callable[[Any, int], Mapping[str, Range]]
    batched: tuple[str, ...]
    notice: str
    archive_notice: str
    columns: Mapping[str, str] = field(default_factory=dict)
    accuracy: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    legend: Mapping[str, str] = field(default_factory=dict)
    sizes: Callable[[str, Mapping[str, int]], Refusal | None] = _none
    full_size: Callable[[Any], bool] = lambda _: False
    estimated: Estimated | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(axis.key for axis in self.axes)

    @property
    def code(self) -> str:
        """The folder of its modules, in this package: ``families/sam3``."""
        return f"families/{self.name.replace('-', '_')}"

    @property
    def assets(self) -> tuple[str, ...]:
        """The files beside the engines that running needs."""
        return tuple(dict.fromkeys(asset for part in self.parts.values() for asset in part.assets))

    @property
    def eight_bit_part(self) -> Part | None:
        """The part that may be quantised, where one may."""
        return next((part for part in self.parts.values() if part.eight_bit), None)

    @cached_property
    def name_pattern(self) -> re.Pattern[str]:
        """Of a variant's name, with a group for each axis and one for ``quantize``."""
        numbers = "_".join(rf"{axis.letter}(?P<{axis.key}>[1-9]\d*)" for axis in self.axes)
        return re.compile(rf"{numbers}(?:_(?P<quantize>{'|'.join(EIGHT_BIT)}))?")

    def shown(self, values: Mapping[str, Any], place: Place | None = None) -> str:
        """The axes that ``values`` has, all or those of one place, as a name has them: ``b8_q50_r672``."""
        chosen = (axis for axis in self.axes if axis.key in values and place in (None, axis.place))
        return "_".join(f"{axis.letter}{values[axis.key]}" for axis in chosen)

    def part_of(self, stem: str) -> Part:
        """The part that a graph or engine file such as ``decoder_q50`` or ``vision-encoder_int8`` belongs to.

        ``_fp32`` is the float32 form that 8 bits start from where the backend reads none of float16
        (``plan/planning.py``).
        """
        letters = "|".join(axis.letter for axis in self.axes if axis.place == "file") or "(?!)"
        endings = "|".join((*EIGHT_BIT, "fp32"))
        match = re.fullmatch(rf"({'|'.join(self.parts)})(?:_(?:(?:{letters})\d+|{endings}))?", stem)
        if match is None:
            raise KeyError(f"{stem!r} names no part of {self.title}; the parts are {', '.join(self.parts)}")
        return self.parts[match[1]]

    def profile(self, part: Part, dims: Any, batch: int, optimal: Mapping[str, int] | None = None) -> dict[str, Range]:
        """The range of every dynamic dimension of ``part`` for engines of a variant with this ``batch``.

        ``optimal`` replaces tuned values by symbol.
        """
        ranges = self.ranges(dims, batch)
        chosen = {dim: ranges[dim] for dim in part.dynamic}
        for dim, value in (optimal or {}).items():
            if dim in chosen:
                low, high = chosen[dim].min, chosen[dim].max
                chosen[dim] = Range(low, min(max(value, low), high), high)
        return chosen


@dataclass(frozen=True)
class Estimated:
    """What ``doctor`` goes by before anything is built: parameters of each part, the bytes of scratch memory of a
    variant, and in words what the numbers are of."""

    parameters: Mapping[str, float]
    scratch: Callable[[Any, Mapping[str, int]], int]
    made_of: str


def resolve(shape: Shape, values: Mapping[str, int]) -> Shape:
    """Replace the symbols in ``shape`` that ``values`` knows; ``n+1`` follows from ``n``."""
    return tuple(_resolved(dim, values) for dim in shape)


def _resolved(dim: Dim, values: Mapping[str, int]) -> Dim:
    if isinstance(dim, int) or dim in values:
        return dim if isinstance(dim, int) else values[dim]
    symbol, plus, more = dim.partition("+")
    return values[symbol] + int(more) if plus and symbol in values else dim
