"""Runs an exported graph node by node in PyTorch, on the CPU, and rounds each result to the type that the graph says.

That is the model of a GPU: a node computes and adds up in float32, as tensor cores and NVIDIA's normalisations do, and
what it hands on has float16's 11 bits. ONNX Runtime cannot show this, as its CPU keeps float32 between the nodes of a
float16 graph. The largest value of every result is noted before it is rounded, so that an overflow has a number. Knows
the operators of our graphs and no others; 8-bit ones too. Slow, exact, for measurements only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.sam3.export.layers import MASKED

Attributes = Mapping[str, Any]
Values = Sequence[Any]
"""A node's inputs: tensors, in float32 where the graph has a smaller floating type; None where one is left out."""

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
}
_FP8_LARGEST = 448.0


class RoundedGraph:
    """The graph at ``path``; ``largest`` maps each float16 node that has run to the largest magnitude of its results.

    Scores under the additive mask do not count: they are large on purpose, and finite (-20000 at the least).
    """

    def __init__(self, path: Path) -> None:
        graph = onnx.load(str(path)).graph
        self._nodes = list(graph.node)
        self._weights = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
        self._types = {value.name: _TYPES[value.type.tensor_type.elem_type] for value in graph.input}
        self.outputs = [value.name for value in graph.output]
        self._uses = Counter(name for node in self._nodes for name in node.input) + Counter(self.outputs)
        self._masked = self._find_masked()
        self.largest: dict[str, float] = {}

    @torch.no_grad()
    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
        """Outputs by name, as NumPy arrays in the graph's types; ``feeds`` are rounded to the types of the inputs."""
        values: dict[str, Tensor] = {name: value.to(self._types[name]) for name, value in feeds.items()}
        uses = Counter(self._uses)
        for node in self._nodes:
            self._run(node, values)
            for name in node.input:
                uses[name] -= 1
                if not uses[name]:
                    values.pop(name, None)
        return {name: values[name].numpy() for name in self.outputs}

    def _run(self, node: Any, values: dict[str, Tensor]) -> None:
        compute = _OPERATORS.get(node.op_type)
        if compute is None:
            raise ExportError(f"{node.name}: the rounded run does not know {node.op_type}", "add it to rounded.py")
        stored = [values.get(name, self._weights.get(name)) if name else None for name in node.input]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        made = compute([_widened(value) for value in stored], attributes)
        wanted = _result_type(node.op_type, stored, attributes)
        for name, result in zip(node.output, made if isinstance(made, tuple) else (made,), strict=True):
            if result.is_floating_point() and wanted is not None:
                if wanted == torch.float16:
                    self._note(node.name, name, result)
                result = result.to(wanted)
            values[name] = result

    def _note(self, node: str, name: str, result: Tensor) -> None:
        if name in self._masked:
            result = result[result > MASKED / 2]
        if result.numel():
            low, high = torch.aminmax(result)
            self.largest[node] = max(self.largest.get(node, 0.0), -float(low), float(high))

    def _find_masked(self) -> set[str]:
        """Results that hold the additive mask: from its product on to the Softmax that spends it."""
        plain = {name: value for name, value in self._weights.items() if value.element_size() > 1 and value.numel()}
        found = {name for name, value in plain.items() if float(value.min()) == MASKED}
        for node in self._nodes:
            if node.op_type in ("Mul", "Add", "Unsqueeze") and found.intersection(node.input):
                found.update(node.output)
        return found


def _tensor(proto: Any) -> Tensor:
    if proto.data_type == TensorProto.FLOAT8E4M3FN:  # zero points: nothing else is stored in it
        return torch.zeros(tuple(proto.dims), dtype=torch.float8_e4m3fn)
    return torch.from_numpy(numpy_helper.to_array(proto).copy())


def _widened(value: Tensor | None) -> Tensor | None:
    return value.float() if value is not None and value.is_floating_point() else value


def _result_type(operator: str, stored: Sequence[Tensor | None], attributes: Attributes) -> torch.dtype | None:
    """The floating type of a node's results: that of its first input, but for the three that change types."""
    if operator == "Cast":
        return _TYPES[attributes["to"]]
    source = stored[1] if operator == "DequantizeLinear" else stored[0]
    if operator == "QuantizeLinear" or source is None or not source.is_floating_point():
        return None
    return source.dtype


# Operators --------------------------------------------------------------------------------------------------------


def _reshape(x: Values, _: Attributes) -> Tensor:
    shape = [x[0].shape[place] if size == 0 else size for place, size in enumerate(x[1].tolist())]
    reshaped: Tensor = x[0].reshape(shape)
    return reshaped


def _slice(x: Values, _: Attributes) -> Tensor:
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 else range(len(starts))
    steps = x[4].tolist() if len(x) > 4 else [1] * len(starts)
    taken: Tensor = x[0]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index = torch.arange(taken.shape[axis])[slice(start, end, step)]
        taken = taken.index_select(axis, index)
    return taken


def _unsqueeze(x: Values, _: Attributes) -> Tensor:
    made: Tensor = x[0]
    rank = made.dim() + x[1].numel()
    for axis in sorted(int(axis) % rank for axis in x[1].flatten()):
        made = made.unsqueeze(axis)
    return made


def _squeeze(x: Values, _: Attributes) -> Tensor:
    made: Tensor = x[0].squeeze(tuple(x[1].flatten().tolist())) if len(x) > 1 else x[0].squeeze()
    return made


def _gather(x: Values, a: Attributes) -> Tensor:
    axis = a.get("axis", 0) % x[0].dim()
    index = x[1] % x[0].shape[axis]
    shape = (*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :])
    return x[0].index_select(axis, index.flatten()).reshape(shape)  # type: ignore[no-any-return]


def _gather_rows(x: Values, _: Attributes) -> Tensor:
    """GatherND with one batch dimension, as layers.gather_rows writes it."""
    made: Tensor = x[0].gather(1, x[1].expand(-1, -1, x[0].shape[-1]))
    return made


def _clip(x: Values, _: Attributes) -> Tensor:
    low, high = (x[place] if len(x) > place else None for place in (1, 2))
    return torch.clamp(x[0], min=low, max=high)


def _pad(x: Values, _: Attributes) -> Tensor:
    """Zeros around ``x``; ONNX lists all beginnings, then all ends, and PyTorch pairs from the last axis."""
    pads, rank = x[1].tolist(), x[0].dim()
    return F.pad(x[0], [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)])


def _conv(x: Values, a: Attributes) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    bias = x[2] if len(x) > 2 else None
    return F.conv2d(x[0], x[1], bias, a.get("strides", 1), pads[:2], a.get("dilations", 1), a.get("group", 1))


def _conv_transpose(x: Values, a: Attributes) -> Tensor:
    return F.conv_transpose2d(x[0], x[1], x[2] if len(x) > 2 else None, a.get("strides", 1))


def _gemm(x: Values, a: Attributes) -> Tensor:
    left, right = (x[0].T if a.get("transA") else x[0]), (x[1].T if a.get("transB") else x[1])
    made: Tensor = a.get("alpha", 1.0) * (left @ right)
    return made + a.get("beta", 1.0) * x[2] if len(x) > 2 else made


def _layer_norm(x: Values, a: Attributes) -> Tensor:
    shape = x[0].shape[a.get("axis", -1) % x[0].dim() :]
    return F.layer_norm(x[0], shape, x[1], x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5))


def _instance_norm(x: Values, a: Attributes) -> Tensor:
    return F.instance_norm(x[0], weight=x[1], bias=x[2], eps=a.get("epsilon", 1e-5))


def _sum(x: Values, a: Attributes) -> Tensor:
    made: Tensor = x[0].sum(dim=x[1].tolist(), keepdim=bool(a.get("keepdims", 1)))
    return made


def _top(x: Values, a: Attributes) -> tuple[Tensor, Tensor]:
    best, index = torch.sort(x[0], dim=a.get("axis", -1), descending=True, stable=True)
    count = int(x[1])
    return best[:, :count], index[:, :count]


def _resize(x: Values, _: Attributes) -> Tensor:
    return F.interpolate(x[0], scale_factor=x[2].tolist()[2:], mode="nearest")


def _spread(scale: Tensor, like: Tensor, a: Attributes) -> Tensor:
    """A scale of each channel, so that it broadcasts along the axis that the node names."""
    if scale.dim() == 0:
        return scale
    return scale.reshape([-1 if axis == a.get("axis", 1) % like.dim() else 1 for axis in range(like.dim())])


def _quantize(x: Values, a: Attributes) -> Tensor:
    scaled: Tensor = x[0] / _spread(x[1], x[0], a)
    if x[2].dtype == torch.int8:
        return torch.round(scaled).clamp(-128, 127).to(torch.int8)
    return scaled.clamp(-_FP8_LARGEST, _FP8_LARGEST).to(torch.float8_e4m3fn)


def _dequantize(x: Values, a: Attributes) -> Tensor:
    made: Tensor = x[0].float() * _spread(x[1], x[0], a)
    return made


def _cast(x: Values, a: Attributes) -> Tensor:
    wanted = _TYPES[a["to"]]
    return x[0].float() if wanted.is_floating_point else x[0].to(wanted)  # type: ignore[no-any-return]


def _plain(function: Callable[..., Tensor]) -> Callable[[Values, Attributes], Tensor]:
    return lambda x, _: function(*x)


_OPERATORS: dict[str, Callable[[Values, Attributes], Any]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(list(x), dim=a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantize,
    "Div": _plain(torch.div),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Expand": lambda x, _: x[0] * torch.ones(tuple(x[1].tolist()), dtype=x[0].dtype),
    "Gather": _gather,
    "GatherND": _gather_rows,
    "Gemm": _gemm,
    "GreaterOrEqual": _plain(torch.ge),
    "Identity": lambda x, _: x[0],
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "MaxPool": lambda x, a: F.max_pool2d(x[0], tuple(a["kernel_shape"]), tuple(a["strides"])),
    "Min": _plain(torch.minimum),
    "Mul": _plain(torch.mul),
    "Not": _plain(torch.logical_not),
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Range": lambda x, _: torch.arange(*(int(value) for value in x)),
    "ReduceSum": _sum,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda x, a: torch.tensor(x[0].shape)[a.get("start", 0) : a.get("end", None)],
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": lambda x, a: torch.softmax(x[0], dim=a.get("axis", -1)),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "TopK": _top,
    "Transpose": lambda x, a: x[0].permute(*a["perm"]),
    "Unsqueeze": _unsqueeze,
}
