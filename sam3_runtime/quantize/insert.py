"""Writes measured ranges into a graph as QuantizeLinear and DequantizeLinear nodes. PyTorch is not needed here.

Each MatMul, Gemm or Conv whose weight belongs to a calibrated module gets a pair on its input (one scale for the
tensor) and a pair on its weight (INT8: one scale for each output channel; FP8: one); zero points are 0, biases stay
float. The weights stay float too, in the ``.onnx.data`` file of the float graph: that is what ONNX Runtime and every
TensorRT from 8.6 on read, and what they turn into 8 bits when an engine is built. Scales have the graph's own type.
Knows nothing of how ranges are found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.files import written_whole
from sam3_runtime.graphs.read import AXES_WERE_AN_ATTRIBUTE, QuantizeName, read_graph
from sam3_runtime.quantize.record import Calibration, match_modules

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_WEIGHT_SUFFIX = ".weight"


@dataclass(frozen=True)
class Format:
    """An 8-bit element type: its name in a variant, its ONNX type, the value that a tensor's range is mapped to, and
    whether each output channel of a weight gets a scale of its own."""

    name: QuantizeName
    onnx_type: int
    largest: float
    by_channel: bool


INT8 = Format("int8", TensorProto.INT8, 127.0, by_channel=True)
"""Symmetric: -128 is left unused, as TensorRT does."""
FP8 = Format("fp8", TensorProto.FLOAT8E4M3FN, 448.0, by_channel=False)
"""E4M3. A float has the same relative precision at every scale, so that a channel gains nothing by one of its own."""
FORMATS: dict[QuantizeName, Format] = {form.name: form for form in (INT8, FP8)}

_OPSET, _IR_VERSION = 19, 9
"""The first with FP8, and with QuantizeLinear in float16; and the file format that came with it."""
_CHANGED_IN_FORM = (
    "Cast Constant ConstantOfShape DequantizeLinear Equal Identity Pad QuantizeLinear Reshape Resize Shape"
)
_SAME_SINCE_17 = frozenset(_CHANGED_IN_FORM.split())
"""Operators that 18 or 19 changed by new types, inputs or attributes alone: without those they mean what they meant."""

_FLOATS: dict[int, np.dtype[Any]] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.FLOAT16: np.dtype(np.float16)}


def quantize_graph(
    graph: Path, scales: Path, output: Path, *, exclude: Sequence[str], quantize: QuantizeName = "int8"
) -> None:
    """Write ``output``, the 8-bit form of ``graph``, with the ranges in ``scales``; ``exclude`` stays float.

    An FP8 graph, or one of a float16 graph, has opset 19; INT8 in a float32 graph has 17. ``output`` lies beside
    ``graph``, whose weights it reads. The same inputs give the same bytes. Raises :class:`CalibrationError` when the
    ranges were measured on another graph, or a pattern matches nothing.
    """
    if output.parent.resolve() != graph.parent.resolve():
        raise CalibrationError(f"{output} must lie beside {graph}, as it shares its weights", "write it there")
    calibration = Calibration.read(scales)
    _refuse_foreign(calibration, scales, graph)
    excluded = match_modules(exclude, [*calibration.amax, *calibration.without])
    model = onnx.load(graph, load_external_data=False)
    form = FORMATS[quantize]
    insertion = Insertion(model, graph.parent, calibration.amax, excluded, form)
    insertion.apply()
    if not insertion.quantized:
        raise CalibrationError("nothing is left to quantise", "shorten calibration.exclude")
    if form is FP8 or insertion.precision == np.float16:
        _raise_opset(model)
    for key, value in (("quantize", form.name), ("calibration_key", calibration.key)):
        model.metadata_props.add(key=key, value=value)
    with written_whole(output) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(temporary), full_check=True)
    print(insertion.report())


def _refuse_foreign(calibration: Calibration, scales: Path, graph: Path) -> None:
    again = f"delete {scales} and run snakemake {scales}"
    digest = read_graph(graph).sha256
    if calibration.onnx_sha256 != digest:
        was, now = calibration.onnx_sha256[:12], digest[:12]
        raise CalibrationError(f"{scales} was measured on another graph ({was}) than {graph} ({now})", again)
    if calibration.key != calibration.expected_key():
        raise CalibrationError(f"{scales} was edited: its content does not match its own key", again)


def _raise_opset(model: Any) -> None:
    """Call the graph opset 19, having made sure that all of its operators mean there what they mean in 17."""
    for node in model.graph.node:
        if node.op_type in AXES_WERE_AN_ATTRIBUTE:
            _axes_as_input(node, model.graph)
            continue
        since = onnx.defs.get_schema(node.op_type, _OPSET, node.domain).since_version
        if since > model.opset_import[0].version and node.op_type not in _SAME_SINCE_17:
            raise CalibrationError(
                f"{node.name}: {node.op_type} means something else in opset {_OPSET}", "report this as a defect"
            )
    model.opset_import[0].version = _OPSET
    model.ir_version = _IR_VERSION


def _axes_as_input(node: Any, graph: Any) -> None:
    axes = next((attribute for attribute in node.attribute if attribute.name == "axes"), None)
    if axes is not None:
        name = f"{node.name}/axes"
        graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
        node.input.append(name)
        node.attribute.remove(axes)


@dataclass(frozen=True)
class _Weight:
    """A weight of a node: which module's, and the axis of its output channels."""

    tensor: Any
    module: str
    axis: int


class Insertion:
    """Q/DQ pairs for the layers of ``model`` that ``amax`` knows and ``excluded`` does not name.

    ``folder`` holds the external data. :meth:`apply` changes the model; ``quantized`` and ``left`` then say which
    nodes got scales and why the others did not, and ``precision`` is the type of the weights and so of the scales.
    """

    def __init__(
        self, model: Any, folder: Path, amax: Mapping[str, float], excluded: Iterable[str], form: Format
    ) -> None:
        self._graph = model.graph
        self._folder = folder
        self._amax = amax
        self._excluded = frozenset(excluded)
        self._form = form
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._added: list[Any] = []
        self._inputs: dict[tuple[str, float], str] = {}  # result of the pair of each tensor and range
        self._weights: dict[str, str] = {}  # result of the pair of each weight
        self.precision: np.dtype[Any] = np.dtype(np.float32)
        self.quantized: list[str] = []
        self.left: dict[str, str] = {}

    def apply(self) -> None:
        """Rebuild the list of nodes: each pair stands right before its first consumer, so the order stays valid."""
        nodes = [step for node in self._graph.node for step in self._with_pairs(node)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(self._added)

    def _with_pairs(self, node: Any) -> Iterator[Any]:
        if node.op_type in _PRODUCTS:
            weight = self._weight(node)
            if isinstance(weight, str):
                self.left[node.name] = weight
            else:
                self.quantized.append(node.name)
                self.precision = _FLOATS[weight.tensor.data_type]
                yield from self._quantize_input(node, weight)
                yield from self._quantize_weight(node, weight)
        elif node.op_type == "ConvTranspose":
            self.left[node.name] = "transposed convolution"
        yield node

    def _weight(self, node: Any) -> _Weight | str:
        """The weight of a node that is to be quantised, or why it is not."""
        tensor = self._initializers.get(node.input[1])
        if tensor is None:
            return "product of two activations"
        module = tensor.name.removesuffix(_WEIGHT_SUFFIX)
        if module in self._excluded:
            return "excluded"
        if module not in self._amax:
            return "no scale was measured"
        if tensor.data_type not in _FLOATS:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise CalibrationError(
                f"the weight of {module} is {kind}: float32 and float16 weights can be quantised",
                "set `precision: fp16` for it in variants.yaml",
            )
        if node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB")):
            return _Weight(tensor, module, axis=0)
        return _Weight(tensor, module, axis=len(tensor.dims) - 1)

    def _quantize_input(self, node: Any, weight: _Weight) -> Iterator[Any]:
        name, amax = node.input[0], self._amax[weight.module]
        if (name, amax) not in self._inputs:
            # Two modules that read one tensor may still have measured two ranges: the second gets a pair of its own.
            label = f"{name}@{weight.module}" if any(seen == name for seen, _ in self._inputs) else name
            self._inputs[name, amax] = f"{label}/DequantizeLinear:0"
            yield from self._pair(name, label, self._scales(np.asarray(amax)), axis=None)
        node.input[0] = self._inputs[name, amax]

    def _quantize_weight(self, node: Any, weight: _Weight) -> Iterator[Any]:
        name = weight.tensor.name
        if name not in self._weights:
            self._weights[name] = f"{name}/DequantizeLinear:0"
            axis = weight.axis if self._form.by_channel else None
            yield from self._pair(name, name, self._weight_scales(weight), axis)
        node.input[1] = self._weights[name]

    def _weight_scales(self, weight: _Weight) -> NDArray[Any]:
        """The scale of each output channel, or of the whole weight where the format wants one."""
        tensor = TensorProto.FromString(weight.tensor.SerializeToString())
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, str(self._folder))
        values = numpy_helper.to_array(tensor)
        others = tuple(axis for axis in range(values.ndim) if axis != weight.axis) if self._form.by_channel else None
        largest = np.asarray(np.abs(values).max(axis=others), np.float32)
        if not np.isfinite(largest).all():
            raise CalibrationError(f"the weight of {weight.module} is not finite", "check the checkpoint's weights")
        return self._scales(largest)

    def _scales(self, amax: NDArray[Any]) -> NDArray[Any]:
        """Ranges over the format's largest value, in the graph's type; 1 where the range is 0.

        In float16 they are rounded up: a range then still fits, and no scale becomes 0. What float16's smallest scale
        (6e-8) cannot resolve, float16 weights cannot either.
        """
        exact = np.where(amax > 0, amax / self._form.largest, 1.0)
        scales = np.asarray(exact, self.precision)
        if self.precision == np.float16:
            scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
        return np.asarray(scales, self.precision)

    def _pair(self, name: str, label: str, scale: NDArray[Any], axis: int | None) -> list[Any]:
        """QuantizeLinear and DequantizeLinear of tensor ``name``; their scale and zero point become initialisers."""
        zeros = helper.make_tensor(f"{label}/zero_point", self._form.onnx_type, scale.shape, [0] * scale.size)
        self._added += [numpy_helper.from_array(scale, f"{label}/scale"), zeros]
        parameters = [f"{label}/scale", f"{label}/zero_point"]
        axes: dict[str, Any] = {} if axis is None else {"axis": axis}
        between, result = f"{label}/QuantizeLinear:0", f"{label}/DequantizeLinear:0"
        return [
            helper.make_node("QuantizeLinear", [name, *parameters], [between], name=f"{label}/QuantizeLinear", **axes),
            helper.make_node(
                "DequantizeLinear", [between, *parameters], [result], name=f"{label}/DequantizeLinear", **axes
            ),
        ]

    def report(self) -> str:
        """How many layers got scales, and which others did not, by reason."""
        total = len(self.quantized) + len(self.left)
        lines = [f"{self._form.name}: {len(self.quantized)} of {total} products and convolutions got scales"]
        for reason, count in sorted(Counter(self.left.values()).items()):
            names = [name for name, why in self.left.items() if why == reason]
            few = ", ".join(names[:8]) + (f" and {count - 8} more" if count > 8 else "")
            lines.append(f"  {count} stay in float, {reason}: {few}")
        return "\n".join(lines)


def _attribute(node: Any, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)
