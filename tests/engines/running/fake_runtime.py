"""Modules ``tensorrt`` and ``tensorrt_rtx`` as far as running engines goes, and variants of engines for them.

An engine is a JSON file: the record of the fake backend's engine of that part, the types that its tensors are bound in,
and its sizes. It is run by :class:`FakeEngine` on the fake GPU's memory, at the addresses that were bound. Each module
has the names of its release and no others.
"""

from __future__ import annotations

import enum
import gc
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sam3_runtime.core.files import sha256_of
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, ModelDims, PartName
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import Backend, EngineRecord, Sizes, TensorRecord, Toolchain
from tests.engines.building.trt_api import member_class, read_api
from tests.engines.running.fake_gpu import FakeGpu, OutOfMemory
from tests.fake_variant import config_of, verdict_of, write_fake_variant

API = read_api()
_TYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}
_NUMPY = {name: numpy for numpy, name in _TYPES.items()}
_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

Names = Mapping[str, Any]
"""Class → the names that its instances have."""


class Seen:
    """What the runtime did with the fake: parts that were deserialised, and how often each part was enqueued."""

    def __init__(self) -> None:
        self.deserialized: list[str] = []
        self.enqueued: list[str] = []
        self.compiled: list[str] = []
        """Parts whose kernels TensorRT-RTX had to compile."""
        self.bound: dict[str, dict[str, int]] = {}
        """Part → tensor → the address that its last run used."""
        self.scratch: dict[str, int] = {}
        """Part → where its context works, as last told."""
        self.alive = 0


def make_runtime_module(release: str, gpu: FakeGpu) -> Any:
    """``tensorrt`` of that release."""
    return _make_module(release, API[release], gpu, "tensorrt")


def make_rtx_module(version: str, gpu: FakeGpu) -> Any:
    """``tensorrt_rtx``, with the names of the one that is installed here."""
    import tensorrt_rtx

    listed = ("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "DataType")
    names: dict[str, Any] = {name: dir(getattr(tensorrt_rtx, name)) for name in listed}
    names["DataType"] = list(tensorrt_rtx.DataType.__members__)
    names["ExecutionContextAllocationStrategy"] = list(tensorrt_rtx.ExecutionContextAllocationStrategy.__members__)
    return _make_module(version, names, gpu, "tensorrt_rtx")


def _make_module(release: str, names: Names, gpu: FakeGpu, kind: str) -> Any:
    module: Any = types.ModuleType(kind)
    module.__version__, module._seen = release, Seen()
    seen: Seen = module._seen
    module.DataType = enum.Enum("DataType", list(names["DataType"]))
    if "ExecutionContextAllocationStrategy" in names:
        strategies = list(names["ExecutionContextAllocationStrategy"])
        module.ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", strategies)
    module.ILogger = type("ILogger", (), {"Severity": enum.Enum("Severity", list(_SEVERITIES))})

    def say(logger: Any, text: str, severity: str = "ERROR") -> None:
        logger.log(module.ILogger.Severity[severity], text)

    class Runtime(member_class("Runtime", names["Runtime"])):  # type: ignore[misc]
        engine_header_size = 64

        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            assert gpu.stack, "no context is current"
            try:
                made = json.loads(content)
            except ValueError:
                say(self._logger, "Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)")
                return None
            seen.deserialized.append(made["part"])
            try:
                return Engine(self, made)
            except OutOfMemory:
                say(self._logger, "Requested amount of GPU memory could not be allocated.")
                return None

        def get_engine_validity(self, header: bytes) -> tuple[Any, int]:
            assert len(header) <= 64
            card = gpu.stack[-1].card if gpu.stack else gpu.cards[0]  # CUDA's first, where none is current
            if card.capability == (9, 0):
                return module.EngineValidity.VALID, 0
            return module.EngineValidity.INVALID, module.EngineInvalidityDiagnostics.UNSUPPORTED_CC

    class Engine(member_class("ICudaEngine", names["ICudaEngine"])):  # type: ignore[misc]
        def __init__(self, runtime: Any, made: dict[str, Any]) -> None:
            self._runtime, self._made = runtime, made
            self._weights = gpu.reserve(made["weights"])
            seen.alive += 1
            self._tensors = list(made["types"])

        num_io_tensors = property(lambda self: len(self._tensors))
        device_memory_size = device_memory_size_v2 = property(lambda self: self._made["scratch"])

        def get_tensor_name(self, place: int) -> str:
            found: str = self._tensors[place]
            return found

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType[_TYPES[self._made["types"][name]]]

        def create_execution_context_without_device_memory(self) -> Any:
            return Context(self)

        def create_execution_context(self, chosen: Any = None) -> Any:
            if isinstance(chosen, RuntimeConfig):
                return Context(self, chosen._cache) if chosen._strategy.name == "USER_MANAGED" else None
            assert chosen is module.ExecutionContextAllocationStrategy.USER_MANAGED, "scratch is shared"
            return Context(self)

        def create_runtime_config(self) -> Any:
            return RuntimeConfig()

        def __del__(self) -> None:
            if hasattr(self, "_weights"):
                gpu.release(self._weights)
                seen.alive -= 1

    class RuntimeCache(member_class("IRuntimeCache", names.get("IRuntimeCache", ()))):  # type: ignore[misc]
        def __init__(self) -> None:
            self._kernels = b""

        def deserialize(self, content: bytes) -> bool:
            assert gpu.stack, "no context is current"
            if not content.startswith(b"kernels of Fake H200"):
                return False
            self._kernels = content
            return True

        def serialize(self) -> memoryview:
            return memoryview(self._kernels)

    class RuntimeConfig(member_class("IRuntimeConfig", names.get("IRuntimeConfig", ()))):  # type: ignore[misc]
        def __init__(self) -> None:
            self._cache: Any = None
            self._strategy: Any = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self._strategy = strategy

        def create_runtime_cache(self) -> Any:
            return RuntimeCache()

        def set_runtime_cache(self, cache: Any) -> bool:
            self._cache = cache
            return True

    class Context(member_class("IExecutionContext", names["IExecutionContext"])):  # type: ignore[misc]
        def __init__(self, engine: Any, cache: Any = None) -> None:
            self._engine, self._cache = engine, cache
            self._record = EngineRecord.model_validate(engine._made["record"])
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._last: dict[str, tuple[int, ...]] | None = None
            self._scratch = 0

        def _set_scratch(self, address: int) -> None:
            assert address % 256 == 0
            self._scratch = seen.scratch[self._record.part] = address

        device_memory = property(None, _set_scratch)

        def set_device_memory(self, address: int, size: int) -> None:
            assert size >= self._engine._made["scratch"]
            self._set_scratch(address)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            spec = next(one for one in self._record.inputs if one.name == name)
            if list(shape) == self._engine._made["refuses"]:
                say(self._engine._runtime._logger, "Parameter check failed: condition: engineDims.d[i] == dims.d[i]")
                return False
            assert len(shape) == len(spec.shape)
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert address % 256 == 0, f"{name} is not aligned"
            self._addresses[name] = address
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            found: tuple[int, ...] = self._all_shapes()[name]
            return found

        def _all_shapes(self) -> dict[str, tuple[int, ...]]:
            record, values = self._record, {}
            for spec in record.inputs:
                values |= dict(zip(spec.shape, self._shapes[spec.name], strict=True))
            known = {str(symbol): size for symbol, size in values.items() if isinstance(symbol, str)}
            return {
                spec.name: tuple(int(size) for size in resolve(spec.shape, known))
                for spec in (*record.inputs, *record.outputs)
            }

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert gpu.stack, "no context is current"
            made, stream, shapes = self._engine._made, gpu.stream_of(stream_handle), self._all_shapes()
            logger = self._engine._runtime._logger
            if made["fails"]:
                say(logger, "Cask Error in checkCaskExecError<false>: 11 (Cask Convolution Execution)")
                return False
            if stream.captured is not None and shapes != self._last:
                say(logger, "operation not permitted when stream is capturing")
                return False
            if shapes != self._last:
                stream.put(lambda: setattr(self, "_state", shapes))
            self._last = shapes
            seen.enqueued.append(self._record.part)
            seen.bound[self._record.part] = dict(self._addresses)
            if self._cache is not None and not self._cache._kernels:
                seen.compiled.append(self._record.part)
                self._cache._kernels = b"kernels of Fake H200 for " + self._record.part.encode()
            stream.put(lambda at=dict(self._addresses), scratch=self._scratch: self._run(shapes, at, scratch))
            return True

        def _run(self, shapes: dict[str, tuple[int, ...]], at: dict[str, int], scratch: int) -> None:
            made, record = self._engine._made, self._record
            assert shapes == self._state, "a graph was replayed after runs of other shapes"
            gpu.view(scratch, (made["scratch"],), np.uint8)[:] = 0xEE
            arrays = {name: gpu.view(at[name], shape, made["types"][name]) for name, shape in shapes.items()}
            feeds = {spec.name: arrays[spec.name].astype(spec.dtype) for spec in record.inputs}
            for name, array in FakeEngine(record)._run(feeds).items():
                arrays[name][:] = array

    module.Runtime = Runtime
    if kind == "tensorrt_rtx":
        module.EngineValidity = enum.Enum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"])
        module.EngineInvalidityDiagnostics = enum.IntFlag(
            "EngineInvalidityDiagnostics", ["MALFORMED_ENGINE", "UNSUPPORTED_CC"]
        )
    return module


# --- variants ---------------------------------------------------------------------------------------------------------

SCRATCH: dict[str, int] = {"vision-encoder": 40_000, "text-encoder": 9_000, "geometry-encoder": 0, "decoder": 70_000}
WEIGHTS: dict[str, int] = {"vision-encoder": 50_000, "text-encoder": 60_000, "geometry-encoder": 512, "decoder": 9_000}


def write_gpu_variant(
    directory: Path,
    variant: Variant,
    dims: ModelDims,
    *,
    backend: Backend = "tensorrt",
    version: str,
    floats: Mapping[str, str] | str = "float16",
    int64: str = "int32",
) -> None:
    """A variant whose engines the fake modules run; ``floats`` is the floating-point type of all parts, or of each."""
    write_fake_variant(directory, variant, dims)
    toolchain = Toolchain(backend=backend, version=version)
    if backend == "tensorrt":
        toolchain = toolchain.model_copy(update={"gpu": "Fake H200", "compute_capability": "9.0"})
    for part in PART_NAMES:
        record = EngineRecord.read(directory / f"{part}.engine.json")
        wide = floats if isinstance(floats, str) else floats[part]
        write_gpu_engine(directory, record, bound_types(part, wide, int64), toolchain)
    digests: dict[PartName, str] = {part: sha256_of(directory / f"{part}.engine") for part in PART_NAMES}
    config = config_of(variant, dims, sha256_of(directory / "tokenizer.json"))
    config.model_copy(update={"backend": backend}).write(directory / "config.json")
    verdict_of(variant, digests).model_copy(update={"device": "Fake H200"}).write(directory / "verify.json")


def bound_types(part: PartName, floats: str, int64: str) -> dict[str, str]:
    """The type of each tensor of an engine of ``part``."""
    chosen = {"float": floats, "int64": int64}
    table = PARTS[part]
    return {spec.name: chosen.get(spec.dtype, spec.dtype) for spec in (*table.inputs, *table.outputs)}


def write_gpu_engine(
    directory: Path, record: EngineRecord, types_of: Mapping[str, str], toolchain: Toolchain, **made: Any
) -> None:
    """One engine and its record; ``made`` is what the file says beside what the record does."""
    part = record.part
    content = {
        "part": part, "types": dict(types_of), "scratch": SCRATCH[part], "weights": WEIGHTS[part], "fails": False,
        "refuses": None, "record": json.loads(record.model_dump_json()),
    }  # fmt: skip
    path = directory / f"{part}.engine"
    path.write_text(json.dumps(content | made))

    def bound(tensors: tuple[TensorRecord, ...]) -> tuple[TensorRecord, ...]:
        return tuple(spec.model_copy(update={"dtype": types_of[spec.name]}) for spec in tensors)

    sizes = Sizes(file=path.stat().st_size, weights=WEIGHTS[part], scratch=SCRATCH[part], activation=SCRATCH[part])
    changes = {
        "backend": toolchain.backend, "toolchain": toolchain, "sha256": sha256_of(path), "sizes": sizes,
        "precision": "fp16", "inputs": bound(record.inputs), "outputs": bound(record.outputs),
    }  # fmt: skip
    record.model_copy(update=changes).write(directory / f"{part}.engine.json")


def collected(gpu: FakeGpu) -> int:
    """Bytes that are in use on the GPU once nobody holds what nobody needs."""
    gc.collect()
    return gpu.used
