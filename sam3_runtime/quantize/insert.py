"""Writes measured ranges into a graph as QuantizeLinear and DequantizeLinear nodes. PyTorch is not needed.

Each MatMul, Gemm or Conv whose weight belongs to a calibrated module gets a pair on its input (one scale for the
tensor) and a pair on its weight (INT8: one scale per output channel; FP8: one); zero points are 0, biases stay float.
The weights stay float too, in the ``.onnx.data`` file of the float graph: ONNX Runtime and TensorRT from 8.6 on read
that form, and convert the weights to 8 bits when an engine is built. Scales have the graph's own type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sam3_runtime.core.errors import CalibrationError
from sam3_runtime.core.files import written_whole
from sam3_runtime.core.wording import few
from sam3_runtime.graphs.read import AXES_WERE_AN_ATTRIBUTE, QuantizeName, read_graph
from sam3_runtime.quantize.record import Calibration, match_modules

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_WEIGHT_SUFFIX = ".weight"


@dataclass(frozen=True)
class Format:
    """An 8-bit element type: ``largest`` is what a range is mapped to, ``by_channel`` the form of weights' scales."""

    name: QuantizeName
    onnx_type: int
    largest: float
    by_channel: bool


INT8 = Format("int8", TensorProto.INT8, 127.0, by_channel=True)
"""Symmetric: -128 is not used, as in TensorRT."""
FP8 = Format("fp8", TensorProto.FLOAT8E4M3FN, 448.0, by_channel=False)
"""E4M3. A float has the same relative precision at every scale, so that scales per channel gain nothing."""
FORMATS: dict[QuantizeName, Format] = {form.name: form for form in (INT8, FP8)}

_OPSET, _IR_VERSION = 19, 9
"""The first opset with FP8 and with QuantizeLinear in float16, and the file format that came with it."""
_CHANGED_IN_FORM = (
    "Cast Constant ConstantOfShape DequantizeLinear Equal Identity Pad QuantizeLinear Reshape Resize Shape"
)
_SAME_SINCE_17 = frozenset(_CHANGED_IN_FORM.split())
"""Operators to which opsets 18 and 19 only added types, inputs or attributes: without those they are unchanged."""

_FLOATS: dict[int, np.dtype[Any]] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.FLOAT16: np.dtype(np.float16)}


def quantize_graph(
    graph: Path, scales: Path, output: Path, *, exclude: Sequence[str], quantize: QuantizeName = "int8"
) -> None:
    """Write ``output``, the 8-bit form of ``graph``, with the ranges in ``scales``; layers in ``exclude`` stay float.

    An FP8 graph, or one of a float16 graph, has opset 19; INT8 in a float32 graph has 17. ``output`` is beside
    ``graph``, whose weights it reads. The same inputs give the same bytes. Raises :class:`CalibrationError` when the
    ranges were measured on another graph, a pattern matches nothing, or no layer is left to quantise.
    """
    if output.parent.resolve() != graph.parent.resolve():
        raise CalibrationError(f"{output} must be beside {graph}, as it shares its weights", "write it there")
    calibration = Calibration.read(scales)
    calibration.check(scales, graph, read_graph(graph).sha256)
    excluded = match_modules(exclude, [*calibration.amax, *calibration.without])
    model = onnx.load(graph, load_external_data=False)
    form = FORMATS[quantize]
    insertion = Insertion(model, graph.parent, calibration.amax, excluded, form)
    insertion.apply()
    if not insertion.quantized:
        raise CalibrationError("no layer is left to quantise", "shorten calibration.exclude")
    if form is FP8 or insertion.precision == np.float16:
        _raise_opset(model)
    for key, value in (("quantize", form.name), ("calibration_key", calibration.key)):
        model.metadata_props.add(key=key, value=value)
    with written_whole(output) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(temporary), full_check=True)
    print(insertion.report())


def _raise_opset(model: Any) -> None:
    """Declare the graph as opset 19, after checking that its operators have the same meaning there as in opset 17."""
    for node in model.graph.node:
        if node.op_type in AXES_WERE_AN_ATTRIBUTE:
            _axes_as_input(node, model.graph)
            continue
        since = onnx.defs.get_schema(node.op_type, _OPSET, node.domain).since_version
        if since > model.opset_import[0].version and node.op_type not in _SAME_SINCE_17:
            problem = f"{node.name}: {node.op_type} has another meaning in opset {_OPSET} than in 17"
            raise CalibrationError(problem, "report this as a defect")
    model.opset_import[0].version = _OPSET
    model.ir_version = _IR_VERSION


def _axes_as_input(node: Any, graph: Any) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == "axes"]:
        graph.initializer.append(numpy_helper.from_array(np.array(attribute.ints, np.int64), f"{node.name}/axes"))
        node.input.append(f"{node.name}/axes")
        node.attribute.remove(attribute)


class Insertion:
    """Adds Q/DQ pairs to the layers of ``model`` that are in ``amax`` and not in ``excluded``, in :meth:`apply`.

    ``folder`` contains the external data. Afterwards ``quantized`` are the names of the nodes that got scales, ``left``
    maps the other products and convolutions to the reason, and ``precision`` is the type of the weights and scales.
    """

    def __init__(
        self, model: Any, folder: Path, amax: Mapping[str, float], excluded: Collection[str], form: Format
    ) -> None:
        self._graph = model.graph
        self._folder, self._amax, self._excluded, self._form = folder, amax, excluded, form
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._added: list[Any] = []
        self._inputs: dict[tuple[str, float], str] = {}  # result of the pair of each tensor and range
        self._weights: set[str] = set()
        self.precision: np.dtype[Any] = np.dtype(np.float32)
        self.quantized: list[str] = []
        self.left: dict[str, str] = {}

    def apply(self) -> None:
        """Insert the pairs, each right before its first consumer: the order of the nodes stays valid."""
        nodes = [step for node in self._graph.node for step in self._with_pairs(node)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(self._added)

    def _with_pairs(self, node: Any) -> Iterator[Any]:
        if node.op_type == "ConvTranspose":
            self.left[node.name] = "transposed convolution"
        elif node.op_type in _PRODUCTS:
            module = node.input[1].removesuffix(_WEIGHT_SUFFIX)
            if node.input[1] not in self._initializers:
                self.left[node.name] = "product of two activations"
            elif module in self._excluded:
                self.left[node.name] = "excluded"
            elif module not in self._amax:
                self.left[node.name] = "no scale was measured"
            else:
                self.quantized.append(node.name)
                yield from self._pairs_of(node, module)
        yield node

    def _pairs_of(self, node: Any, module: str) -> Iterator[Any]:
        (fed, name), amax = node.input[:2], self._amax[module]
        weight = self._initializers[name]
        if weight.data_type not in _FLOATS:
            kind = TensorProto.DataType.Name(weight.data_type).lower()
            raise CalibrationError(
                f"the weight of {module} is {kind}: only float32 and float16 weights can be quantised",
                "set `precision: fp16` for it in variants.yaml",
            )
        self.precision = _FLOATS[weight.data_type]
        if (fed, amax) not in self._inputs:
            # Two modules that read one tensor may still have measured two ranges: the second gets a pair of its own.
            label = f"{fed}@{module}" if any(other == fed for other, _ in self._inputs) else fed
            self._inputs[fed, amax] = f"{label}/DequantizeLinear:0"
            yield from self._pair(fed, label, self._scales(np.asarray(amax)), axis=None)
        if name not in self._weights:
            self._weights.add(name)
            is_first = node.op_type == "Conv" or any(one.name == "transB" and one.i for one in node.attribute)
            axis = (0 if is_first else len(weight.dims) - 1) if self._form.by_channel else None
            yield from self._pair(name, name, self._weight_scales(weight, module, axis), axis)
        node.input[0], node.input[1] = self._inputs[fed, amax], f"{name}/DequantizeLinear:0"

    def _weight_scales(self, weight: Any, module: str, axis: int | None) -> NDArray[Any]:
        """Return the scale of each output channel, which ``axis`` counts, or of the whole weight."""
        copy = TensorProto.FromString(weight.SerializeToString())  # external data is loaded into it
        magnitudes = np.abs(numpy_helper.to_array(copy, str(self._folder)))
        others = None if axis is None else tuple(other for other in range(magnitudes.ndim) if other != axis)
        largest = np.asarray(magnitudes.max(axis=others), np.float32)
        if not np.isfinite(largest).all():
            raise CalibrationError(f"the weight of {module} is not finite", "check the checkpoint's weights")
        return self._scales(largest)

    def _scales(self, amax: NDArray[Any]) -> NDArray[Any]:
        """Divide ranges by the format's largest value, in the graph's type; the scale of a range of 0 is 1.

        In float16 scales are rounded up: a range then still fits, and no scale becomes 0. What float16's smallest scale
        (6e-8) cannot resolve, float16 weights cannot either.
        """
        exact = np.where(amax > 0, amax / self._form.largest, 1.0)
        scales = np.asarray(exact, self.precision)
        if self.precision == np.float16:
            scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
        return np.asarray(scales, self.precision)

    def _pair(self, name: str, label: str, scale: NDArray[Any], axis: int | None) -> list[Any]:
        """Return QuantizeLinear and DequantizeLinear of tensor ``name``, after adding their scale and zero point."""
        zeros = helper.make_tensor(f"{label}/zero_point", self._form.onnx_type, scale.shape, [0] * scale.size)
        self._added += [numpy_helper.from_array(scale, f"{label}/scale"), zeros]
        axes: dict[str, Any] = {} if axis is None else {"axis": axis}
        nodes = []
        for kind in ("QuantizeLinear", "DequantizeLinear"):
            inputs, step = [name, f"{label}/scale", f"{label}/zero_point"], f"{label}/{kind}"
            nodes.append(helper.make_node(kind, inputs, [f"{step}:0"], name=step, **axes))
            name = f"{step}:0"
        return nodes

    def report(self) -> str:
        """Return lines for a log: how many layers have scales, and those without one, by reason."""
        total = len(self.quantized) + len(self.left)
        lines = [f"{self._form.name}: {len(self.quantized)} of {total} products and convolutions got scales"]
        for reason, count in sorted(Counter(self.left.values()).items()):
            names = [name for name, why in self.left.items() if why == reason]
            lines.append(f"  {count} stay in float, {reason}: {few(names)}")
        return "\n".join(lines)
