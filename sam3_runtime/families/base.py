"""Define how a family of models is described: its parts, their tensors, and the axes that its variants differ by.

Names, matrices, the schema of ``variants.yaml``, the ids of graphs and engines, profiles and records follow from this.
The family's code for jobs and for running is in modules of its own, which :mod:`sam3_runtime.families` imports. Pure:
standard library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

BATCH = "batch"
"""An axis of every family: the most images in one call. Engines differ by it, graphs do not."""
RESOLUTION = "resolution"
"""Likewise: the side of the square model input, in pixels. References and scales differ by it."""
QUANTIZE = "quantize"
"""In ``depends_on``: the part may be in 8 bits."""
EIGHT_BIT = ("int8", "fp8")
Place = Literal["folder", "file"]
Refusal = tuple[str, str]
"""Message and hint about values that are not supported."""
Dim = int | str
Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Axis:
    """One choice of a variant.

    ``letter`` is its prefix in names (``q50``). ``default`` is the value where a matrix leaves it out; None for the
    checkpoint's own. ``place``: which name of a graph contains the value, that of its folder or that of its file.
    """

    key: str
    letter: str
    default: int | None = None
    place: Place = "folder"


@dataclass(frozen=True)
class Tensor:
    """A named input or output. ``dtype`` is ``float`` for the precision of the graph.

    Shapes are tuples of integers and of symbols, which the family explains. ``n+1`` is one more than ``n``.
    """

    name: str
    shape: Shape
    dtype: Literal["float", "float32", "int64", "bool"] = "float"


@dataclass(frozen=True)
class Range:
    """The limits of a dynamic dimension, and the value that the engine is tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Part:
    """One of the graphs that a model is split into.

    - ``dynamic``: the symbols of its inputs that differ from call to call.
    - ``depends_on``: the axes that an *engine* of the part differs by; a graph does not depend on the batch.
    - ``external_data``: whether the weights are in a ``.onnx.data`` file beside the graph.
    - ``code``: the modules that decide the content of the graph.
    - ``assets``: files beside the engine that running it needs.
    - ``on_demand``: whether it is removed from the GPU's memory while it is not needed.
    - ``stage``: its stage in a round of the benchmark, if any; ``label``: the name of a measurement in tables.
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
        """Whether the part may be in 8 bits."""
        return QUANTIZE in self.depends_on

    def graph_axes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of ``values`` that a graph of the part differs by."""
        return {axis: value for axis, value in values.items() if axis in self.depends_on and axis != BATCH}

    def input(self, name: str) -> Tensor:
        """Return the input of that name."""
        return next(tensor for tensor in self.inputs if tensor.name == name)


@dataclass(frozen=True, eq=False)
class FamilySpec:
    """A family of models.

    - ``axes``: in the order of a variant's name.
    - ``dims_of`` reads a checkpoint's dimensions from its ``config.json``; ``dims`` restores them from a record.
    - ``claims``: whether such a configuration is of this family; ``hub``: an owner on the hub whose models all are.
    - ``own_values`` returns the checkpoint's value of each axis without a default; ``refuse`` returns why a model of
      these dimensions does not support values of the axes, or None.
    - ``fixed`` returns the symbols that a graph fixes, from the dimensions and the given axes; ``ranges`` those that
      differ from call to call, from the dimensions and the batch; ``sizes`` returns what is wrong with values of the
      latter for a part, or None. ``batched``: the symbols whose limit is the batch.
    - ``columns``: those of the table for checks of the gate, by the check's name; ``accuracy``: those for results on a
      data set, each with its keys there; ``legend``: explanations, by the first column that each is about.
    - ``full_size``: whether an export needs most of a machine's memory, so that only one runs at a time.
    - ``notice``: the licence of the weights; ``archive_notice``: the same in an archive.
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
    sizes: Callable[[str, Mapping[str, int]], Refusal | None] = lambda *_: None
    full_size: Callable[[Any], bool] = lambda _: False
    estimated: Estimated | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the axes."""
        return tuple(axis.key for axis in self.axes)

    @property
    def code(self) -> str:
        """The folder of its modules in this package: ``families/sam3``."""
        return f"families/{self.name.replace('-', '_')}"

    @property
    def assets(self) -> tuple[str, ...]:
        """The files beside the engines that running them needs."""
        return tuple(dict.fromkeys(asset for part in self.parts.values() for asset in part.assets))

    @property
    def eight_bit_part(self) -> Part | None:
        """The part that may be in 8 bits, if any."""
        return next((part for part in self.parts.values() if part.eight_bit), None)

    @cached_property
    def name_pattern(self) -> re.Pattern[str]:
        """The pattern of a variant's name, with a group for each axis and one for ``quantize``."""
        numbers = "_".join(rf"{axis.letter}(?P<{axis.key}>[1-9]\d*)" for axis in self.axes)
        return re.compile(rf"{numbers}(?:_(?P<quantize>{'|'.join(EIGHT_BIT)}))?")

    def shown(self, values: Mapping[str, Any], place: Place | None = None) -> str:
        """Format the axes that are in ``values``, all or those of one ``place``, as in names: ``b8_q50_r672``."""
        chosen = (axis for axis in self.axes if axis.key in values and place in (None, axis.place))
        return "_".join(f"{axis.letter}{values[axis.key]}" for axis in chosen)

    def part_of(self, stem: str) -> Part:
        """Return the part of a graph or engine file such as ``decoder_q50`` or ``vision-encoder_int8``.

        ``_fp32`` is the float32 graph that 8 bits start from (:attr:`Plan.eight_bit_source`). Raises
        :class:`KeyError` for any other name.
        """
        letters = "|".join(axis.letter for axis in self.axes if axis.place == "file") or "(?!)"
        endings = "|".join((*EIGHT_BIT, "fp32"))
        match = re.fullmatch(rf"({'|'.join(self.parts)})(?:_(?:(?:{letters})\d+|{endings}))?", stem)
        if match is None:
            raise KeyError(f"{stem!r} is not a part of {self.title}; the parts are {', '.join(self.parts)}")
        return self.parts[match[1]]

    def profile(self, part: Part, dims: Any, batch: int, optimal: Mapping[str, int] | None = None) -> dict[str, Range]:
        """Return the range of every dynamic dimension of ``part`` for engines with this ``batch``.

        ``optimal`` replaces tuned values by symbol, limited to the range.
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
    """The basis of the estimates of ``doctor``, before anything is built.

    ``parameters`` of each part, the bytes of ``scratch`` memory of a variant, and an explanation of the numbers.
    """

    parameters: Mapping[str, float]
    scratch: Callable[[Any, Mapping[str, int]], int]
    made_of: str


def resolve(shape: Shape, values: Mapping[str, int]) -> Shape:
    """Replace the symbols in ``shape`` that are in ``values``; ``n+1`` follows from ``n``."""
    resolved: list[Dim] = []
    for dim in shape:
        symbol, _, more = str(dim).partition("+")
        resolved.append(values[symbol] + int(more or 0) if symbol in values else dim)
    return tuple(resolved)
