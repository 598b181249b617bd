"""Runs engines of TensorRT 8.6 to 11 and of TensorRT-RTX, which share this API under two module names (``trt``).

The record is checked first: GPU, TensorRT version. Engines of one variant run one after the other on one stream, so all
of them work in one block of scratch; the next engine reads the outputs of one by address. Runs that repeat a shape are
replayed as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.engines.running.base import Engine, EngineOptions
from sam3_runtime.engines.running.cuda import ALIGNMENT, Block, CudaArray
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.cuda_graphs import CudaGraph, capture
from sam3_runtime.engines.running.tensorrt_logger import logger_of
from sam3_runtime.plan.toolchain import NOT_INSTALLED, probe
from sam3_runtime.records.memory import bytes_of
from sam3_runtime.records.records import EngineRecord, TensorRecord

_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}


class TensorRtEngine(Engine):
    """An ``ICudaEngine`` with one context on the device's main stream.

    Its outputs stay on the GPU (:class:`CudaArray`), and its next run overwrites them.
    """

    def __init__(self, path: Path, record: EngineRecord, options: EngineOptions, device: CudaDevice) -> None:
        super().__init__(record)
        spec = BACKENDS[record.backend]
        trt = import_module(str(spec.module))
        self._cuda = device.cuda
        self._uses_graphs = options.cuda_graphs
        # By the addresses of inputs, which are few: a decoder has one set for each image of a batch.
        self._graphs: dict[tuple[int, ...], CudaGraph | None] = {}
        self._logger = logger_of(trt)
        self._logger.reason()  # forget errors about other engines
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._scratch, self._scratch_pointer = 0, 0
        self._limits = {symbol: high for symbol, (_, _, high) in record.profile.items()}
        self._blocks: dict[str, Block] = {}  # of outputs, and of inputs that come from the host
        self._shapes: dict[str, tuple[int, ...]] = {}
        try:
            with self._cuda.current():
                self._runtime = trt.Runtime(self._logger)
                self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
                if self._engine is None:
                    message = f"{path} does not open in {spec.title} {trt.__version__}: {self._logger.reason()}"
                    raise EngineError(message, rebuild_hint(path))
                _check_tensors(path, record, self._engine)
                self._context = self._make_context(trt)
            if self._context is None:
                raise EngineError(f"{path} cannot be run: {self._logger.reason()}", rebuild_hint(path))
            size = getattr(self._engine, "device_memory_size_v2", None)  # from 10.1; the only one from 11 on
            self._scratch = int(self._engine.device_memory_size if size is None else size)
            self._cuda.block("scratch", self._scratch)
            for output in record.outputs:
                self._block_of(output)
        except BaseException:
            self.close()
            raise

    def _make_context(self, trt: Any) -> Any:
        """Return an execution context without memory of its own; None where TensorRT refuses."""
        if hasattr(trt, "ExecutionContextAllocationStrategy"):  # from 10.0
            return self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        return self._engine.create_execution_context_without_device_memory()

    def _block_of(self, spec: TensorRecord) -> Block:
        """Return the engine's own block for a tensor."""
        if spec.name not in self._blocks:
            self._blocks[spec.name] = self._cuda.alloc(bytes_of(spec, self._limits))
        return self._blocks[spec.name]

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, CudaArray]:
        if self._context is None:
            raise EngineError(f"the {self.record.part} is closed", "open the variant again")
        inputs = {spec.name: self._on_device(spec, feeds[spec.name]) for spec in self.inputs}
        with self._cuda.current():
            self._give_scratch()
            changed = {name: array.shape for name, array in inputs.items() if self._shapes.get(name) != array.shape}
            if changed:
                self._forget_graphs()
            for name, shape in changed.items():
                if not self._context.set_input_shape(name, shape):
                    what = f"the {self.record.part} refuses the shape {list(shape)} of {name}"
                    raise EngineError(f"{what}: {self._logger.reason()}")
                self._shapes[name] = shape
            outputs = {}
            for spec in self.outputs:
                shape = tuple(self._context.get_tensor_shape(spec.name))
                outputs[spec.name] = CudaArray(self._cuda, self._block_of(spec).pointer, shape, spec.dtype)
            for name, array in (inputs | outputs).items():
                self._context.set_tensor_address(name, array.pointer)
            self._launch((self._scratch_pointer, *(array.pointer for array in inputs.values())))
        return outputs

    def _on_device(self, spec: TensorRecord, feed: Any) -> CudaArray:
        """``feed`` where the engine can read it: itself, or a copy in the engine's own block."""
        if isinstance(feed, CudaArray) and feed.pointer % ALIGNMENT == 0:
            return feed
        own = CudaArray(self._cuda, self._block_of(spec).pointer, feed.shape, feed.dtype)
        if isinstance(feed, CudaArray):
            self._cuda.copy(own.pointer, feed)
        else:
            self._cuda.stage(f"{self.record.part} {spec.name}", own, feed)
        return own

    def _give_scratch(self) -> None:
        """Point the context to the shared scratch, which moves when a larger engine is opened."""
        pointer = self._cuda.block("scratch", self._scratch).pointer
        if pointer == self._scratch_pointer:
            return
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(pointer, self._scratch)
        else:
            self._context.device_memory = pointer
        self._scratch_pointer = pointer

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream_handle):
            raise EngineError(f"the {self.record.part} failed to run: {self._logger.reason()}")

    def _launch(self, key: tuple[int, ...]) -> None:
        """Run it; from the third run with the addresses ``key`` on as a graph, as long as the shapes stay.

        A context keeps state that belongs to its shapes, and updates it in the first run after a change. So a graph is
        captured right after a run of the same, and is dropped when the shapes change: replayed after runs of other
        shapes, it would read their state.
        """
        graph = self._graphs.get(key)
        if graph is not None:
            graph.launch()
            return
        self._enqueue()
        if not self._uses_graphs:
            return
        if key in self._graphs:
            self._graphs[key] = capture(self._cuda, self._enqueue)
            self._uses_graphs = self._graphs[key] is not None  # an engine or a driver that refuses is not tried again
            return
        self._graphs[key] = None

    def _forget_graphs(self) -> None:
        if any(self._graphs.values()):
            self._cuda.synchronize()
        for graph in self._graphs.values():
            if graph is not None:
                graph.close()
        self._graphs.clear()

    def close(self) -> None:
        """Free the engine and its memory. Closing twice does nothing."""
        if self._runtime is None:
            return
        self._cuda.synchronize()
        self._forget_graphs()
        with self._cuda.current():
            # In this order: a context must not outlive its engine, nor an engine its runtime.
            self._context = None
            self._engine = None
            self._runtime = None
        for block in self._blocks.values():
            block.free()


def _check_tensors(path: Path, record: EngineRecord, engine: Any) -> None:
    """Check that the engine has the tensors of its record, in those types: they are bound without another check."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: _TYPES.get(engine.get_tensor_dtype(name).name, "?") for name in names}
    wanted = {spec.name: spec.dtype for spec in (*record.inputs, *record.outputs)}
    names = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if names:
        differ = ", ".join(f"{name} is {found.get(name)}, not {wanted.get(name)}" for name in names)
        raise EngineError(f"the tensors of {path} do not match its record ({differ})", rebuild_hint(path))


def check_engine(path: Path, record: EngineRecord) -> None:
    """Raise :class:`EngineError` unless the installed version built the engine, and ImportError where there is none."""
    spec, built, here = BACKENDS[record.backend], record.toolchain.version, probe(record.backend).version
    if here == NOT_INSTALLED:
        raise ImportError(f"no module named {spec.module}")
    if built != here:
        raise EngineError(
            f"{path} was built with {spec.title} {built}, and {here} is installed here: an engine loads only with the "
            "version that built it",
            f"{rebuild_hint(path)}; or install that version: pip install {spec.distributions[0]}=={built}",
        )


def open_engine(path: Path, record: EngineRecord, options: EngineOptions, device: CudaDevice) -> TensorRtEngine:
    """Open an engine that :func:`check_engine` accepted.

    Raises :class:`EngineError`, also for one that was built for another kind of GPU.
    """
    built, cuda = record.toolchain, device.cuda
    if built.compute_capability not in (None, cuda.compute_capability):
        raise EngineError(
            f"{path} was built for {built.gpu} (compute capability {built.compute_capability}), and this is "
            f"{cuda.name} ({cuda.compute_capability})",
            f"{rebuild_hint(path)} on this machine",
        )
    return TensorRtEngine(path, record, options, device)
