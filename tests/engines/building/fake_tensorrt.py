"""A module ``tensorrt`` of any release from 8.6.1 to 11.1 that has that release's names and no others.

It parses ONNX far enough to have layers and tensors, notes all that it is told, and "builds" a JSON file. A name that
the release lacks raises AttributeError, as the real one does; what a call means is only as true as it needs to be.
"""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from sam3_runtime.plan.toolchain import release_of
from tests.engines.building.trt_api import member_class, read_api

API = read_api()
RELEASES = tuple(API)
_ENUMS = ("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "TacticSource", "ProfilingVerbosity",
          "TensorFormat", "LayerInformationFormat", "DataType", "ExecutionContextAllocationStrategy")  # fmt: skip
_ONNX_TYPES = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 9: "BOOL", 3: "INT8", 17: "FP8"}
_KINDS = {"MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY", "Conv": "CONVOLUTION", "Cast": "CAST",
          "DequantizeLinear": "DEQUANTIZE", "QuantizeLinear": "QUANTIZE", "Shape": "SHAPE"}  # fmt: skip
_INTEGERS = ("INT32", "INT64", "BOOL")
_SAID = {"FLOAT": "Row major linear FP32", "HALF": "Row major linear FP16 format", "INT8": "Row major Int8 format"}


class Told:
    """What the code under test has told the fake, and what the fake is to answer."""

    def __init__(self) -> None:
        self.network_flags = 0
        self.flags: set[str] = set()
        self.cleared: set[str] = set()
        self.workspace: int | None = None
        self.tactics: int | None = None
        self.profiles: list[dict[str, tuple[Any, ...]]] = []
        self.calibration_profile: Any = None
        self.level: int | None = None
        self.builds = 0
        self.wide: set[str] = set()
        self.on_build: Callable[[Any, Any, Any], bool] = lambda *_: True
        """Given the logger, the network and the configuration; says whether there is an engine."""


def make_module(release: str, told: Told | None = None) -> Any:
    """The module of that release; ``told`` is kept at ``module._told``."""
    api, told = API[release], told or Told()
    module: Any = types.ModuleType("tensorrt")
    module.__version__, module._told = release, told
    for name in _ENUMS:
        if name in api:
            setattr(module, name, enum.Enum(name, [(member, place) for place, member in enumerate(api[name])]))
            getattr(module, name).__int__ = lambda self: self.value
    module.float32, module.float16 = module.DataType.FLOAT, module.DataType.HALF
    severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
    module.ILogger = type("ILogger", (), {"Severity": severity})
    for name in ("IProgressMonitor", "IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "IInt8LegacyCalibrator"):
        if name in api:
            setattr(module, name, type(name, (), {}))

    def member(class_name: str, *further: str) -> type:
        return member_class(class_name, (*api[class_name], *further))

    def old_int(kind: str) -> str:
        return "INT32" if kind == "INT64" and release_of(release) < (9,) else kind

    class Tensor(member("ITensor")):  # type: ignore[misc]
        def __init__(self, name: str, kind: str, shape: tuple[int, ...] = ()) -> None:
            self.name, self.dtype, self.shape = name, module.DataType[old_int(kind)], shape
            self.is_shape_tensor = False

    class Layer(member("ILayer")):  # type: ignore[misc]
        def __init__(self, name: str, kind: str, inputs: list[Any], outputs: list[Any], node: str = "") -> None:
            self._inputs, self._outputs, self._types = inputs, outputs, {}
            self.name, self.type = name, types.SimpleNamespace(name=kind)
            self.metadata = f"[ONNX Layer: {node}]" if node else ""
            self.num_inputs, self.num_outputs = len(inputs), len(outputs)

        def get_input(self, place: int) -> Any:
            return self._inputs[place]

        def get_output(self, place: int) -> Any:
            return self._outputs[place]

        def set_output_type(self, place: int, dtype: Any) -> None:
            assert self._outputs[place].dtype.name not in _INTEGERS, f"{self.name} writes integers"
            self._types[place] = dtype
            told.wide.add(self.name)

    class Network(member("INetworkDefinition")):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs: list[Any] = []
            self._outputs: list[Any] = []
            self._layers: list[Any] = []

        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._outputs))
        num_layers = property(lambda self: len(self._layers))

        def get_input(self, place: int) -> Any:
            return self._inputs[place]

        def get_output(self, place: int) -> Any:
            return self._outputs[place]

        def get_layer(self, place: int) -> Any:
            return self._layers[place]

    class Parser(member("OnnxParser")):  # type: ignore[misc]
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._logger = network, logger

        def parse_from_file(self, path: str) -> bool:
            graph = onnx.load(path, load_external_data=False).graph
            kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
            kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
            tensors = {name: Tensor(name, _ONNX_TYPES[kind]) for name, kind in kinds.items()}
            self._network._inputs = [tensors[value.name] for value in graph.input]
            self._network._outputs = [tensors[value.name] for value in graph.output]
            for node in graph.node:
                inputs = [tensors[name] for name in node.input if name]
                for name in node.output:  # what quantising adds is not typed in the file
                    follows = inputs[1 if node.op_type == "DequantizeLinear" else 0].dtype.name
                    made = "INT8" if node.op_type == "QuantizeLinear" else follows
                    tensors.setdefault(name, Tensor(name, made))
                outputs = [tensors[name] for name in node.output if name]
                if node.op_type == "Mul":  # the parser broadcasts through a layer of its own
                    between = Tensor(f"{node.name}/own", inputs[1].dtype.name)
                    number = len(self._network._layers)
                    own = Layer(f"(Unnamed Layer* {number}) [Shuffle]", "SHUFFLE", [inputs[1]], [between])
                    self._network._layers.append(own)
                    inputs[1] = between
                kind = _KINDS.get(node.op_type, "ELEMENTWISE")
                self._network._layers.append(Layer(node.name, kind, inputs, outputs, node.name))
            return True

    class Profile(member("IOptimizationProfile")):  # type: ignore[misc]
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[Any, ...]] = {}

        def set_shape(self, name: str, low: Any, tuned: Any, high: Any) -> None:
            assert all(isinstance(size, int) for side in (low, tuned, high) for size in side), "symbols are left"
            self._shapes[name] = (low, tuned, high)

    class TimingCache(member("ITimingCache")):  # type: ignore[misc]
        def __init__(self, content: bytes) -> None:
            self._content = content

        def combine(self, other: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self._content += other._content
            return True

        def serialize(self) -> bytes:
            return self._content

    class Config(member("IBuilderConfig")):  # type: ignore[misc]
        def __init__(self) -> None:
            self._timings: Any = None

        def set_flag(self, flag: Any) -> None:
            told.flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            told.cleared.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            assert pool is module.MemoryPoolType.WORKSPACE
            told.workspace = size

        def set_tactic_sources(self, sources: int) -> bool:
            told.tactics = sources
            return True

        def add_optimization_profile(self, profile: Any) -> int:
            told.profiles.append(profile._shapes)
            return len(told.profiles) - 1

        def set_calibration_profile(self, profile: Any) -> bool:
            told.calibration_profile = profile._shapes
            return True

        def create_timing_cache(self, content: bytes) -> Any:
            return None if content.startswith(b"other") else TimingCache(content)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self._timings = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._timings

    class Builder(member("Builder")):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> Any:
            told.network_flags = flags
            return Network()

        def create_builder_config(self) -> Any:
            return Config()

        def create_optimization_profile(self) -> Any:
            return Profile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            told.builds += 1
            told.level = getattr(config, "builder_optimization_level", None)
            if not told.on_build(self._logger, network, config):
                return None
            if config._timings is not None:
                config._timings._content += b"measured"
            self._logger.log(severity.INFO, "Total Activation Memory: 4096")
            tensors = {tensor.name: tensor.dtype.name for tensor in (*network._inputs, *network._outputs)}
            return json.dumps({"tensors": tensors, "Layers": [_inspected(one) for one in network._layers]}).encode()

    def _inspected(layer: Any) -> dict[str, Any]:
        def kind(tensor: Any, is_wide: bool) -> str:
            told_type = "FLOAT" if is_wide else tensor.dtype.name
            if told_type == "FLOAT" and "FP16" in told.flags and not is_wide:
                told_type = "HALF"
            return _SAID.get(told_type, told_type)

        is_wide = layer.name in told.wide
        return {
            "Name": layer.name,
            "LayerType": layer.type.name.title().replace("_", ""),
            "Inputs": [{"Name": t.name, "Format/Datatype": kind(t, is_wide)} for t in layer._inputs],
            "Outputs": [{"Name": t.name, "Format/Datatype": kind(t, is_wide)} for t in layer._outputs],
            "Metadata": layer.metadata,
        }

    class Inspector(member("EngineInspector")):  # type: ignore[misc]
        def __init__(self, content: dict[str, Any]) -> None:
            self._content = content

        def get_engine_information(self, form: Any) -> str:
            assert form is module.LayerInformationFormat.JSON
            return json.dumps({"Layers": self._content["Layers"]})

    class Context(member("IExecutionContext")):  # type: ignore[misc]
        def set_input_shape(self, name: str, shape: Any) -> bool:
            assert all(isinstance(size, int) for size in shape), name
            return True

    class Engine(member("ICudaEngine")):  # type: ignore[misc]
        device_memory_size = device_memory_size_v2 = 4096

        def __init__(self, content: dict[str, Any]) -> None:
            self._content, self._names_in_order = content, list(content["tensors"])
            self.num_io_tensors = len(self._names_in_order)

        def get_tensor_name(self, place: int) -> str:
            return self._names_in_order[place]

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType[self._content["tensors"][name]]

        def create_engine_inspector(self) -> Any:
            return Inspector(self._content)

        def create_execution_context(self) -> Any:
            return Context()

    class Runtime(member("Runtime")):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            return Engine(json.loads(content))

    module.Builder, module.OnnxParser, module.Runtime = Builder, Parser, Runtime
    return module


def says(text: str, severity: str = "ERROR", then: bool = False) -> Callable[[Any, Any, Any], bool]:
    """A build during which TensorRT says ``text``."""

    def build(logger: Any, network: Any, config: Any) -> bool:  # noqa: ARG001 (as the builder calls it)
        logger.log(logger.Severity[severity], text)
        return then

    return build


def network_flag_names(module: Any) -> set[str]:
    """The flags of ``NetworkDefinitionCreationFlag`` that the last network was made with."""
    flags = module.NetworkDefinitionCreationFlag
    return {flag.name for flag in flags if module._told.network_flags & (1 << int(flag))}


def written(path: Path) -> Any:
    """What the fake wrote as an engine."""
    return json.loads(path.read_bytes())
