"""Runs engines of TensorRT 8.6 to 11 and of TensorRT-RTX, which share this API under two module names (``trt``).

What a record can say is said first: another GPU, another TensorRT, too little memory. Engines of one variant run one
after the other on one stream, so that all of them work in one block of scratch; what one writes the next reads, by
address. Runs of one shape on end are replayed as CUDA graphs. Knows no part and no tensor by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.engines.running.base import Engine, EngineOptions
from sam3_runtime.engines.running.cuda import ALIGNMENT, Block, Cuda, CudaArray
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.cuda_graphs import CudaGraph, capture
from sam3_runtime.engines.running.tensorrt_logger import logger_of
from sam3_runtime.measure.memory import bytes_of
from sam3_runtime.plan.toolchain import NOT_INSTALLED, probe
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, TensorRecord

_GRAPHS_KEPT = 64  # of one engine: an address each; a decoder has one for each image of a batch
_SCRATCH = "scratch"

Context = Any
MakeContext = Callable[[Any], Context]
"""An execution context of an engine (``ICudaEngine``) that works in memory which it is given."""


class TensorRtEngine(Engine):
    """An ``ICudaEngine`` with one context on ``cuda``'s stream. Its outputs stay on the GPU (:class:`CudaArray`) and
    are written again by its next run."""

    def __init__(
        self,
        path: Path,
        record: EngineRecord,
        cuda: Cuda,
        options: EngineOptions,
        variant: Variant | None,
        rebuild: str,
        make_context: MakeContext | None = None,
    ) -> None:
        super().__init__(record, variant)
        self._title = BACKENDS[record.backend].title
        trt = import_module(str(BACKENDS[record.backend].module))
        self._cuda = cuda
        self._graphs: OrderedDict[tuple[int, ...], CudaGraph | None] | None = (
            OrderedDict() if options.cuda_graphs else None
        )
        self._logger = logger_of(trt)
        self._logger.said()  # what was said about others
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Context = None
        self._given = 0  # address of the scratch that the context has
        self._limits = {symbol: high for symbol, (_, _, high) in record.profile.items()}
        self._outputs: list[tuple[TensorRecord, Block]] = []
        self._inputs: dict[str, Block] = {}
        self._bound: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        try:
            self._open(trt, path, rebuild, make_context or (lambda engine: make_plain_context(trt, engine)))
        except BaseException:
            self.close()
            raise

    def _open(self, trt: Any, path: Path, rebuild: str, make_context: MakeContext) -> None:
        cuda, record = self._cuda, self.record
        with cuda.current():
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise EngineError(
                    f"{path} does not open in {self._title} {trt.__version__}: {self._logger.said()}", rebuild
                )
            check_tensors(path, record, self._engine, rebuild)
            self._context = make_context(self._engine)
        if self._context is None:
            raise EngineError(f"{path} cannot be run: {self._logger.said()}", rebuild)
        self._scratch = scratch_of(self._engine)
        cuda.block(_SCRATCH, self._scratch)
        for spec in record.outputs:
            self._outputs.append((spec, cuda.alloc(bytes_of(spec, self._limits))))

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, CudaArray]:
        if self._context is None:
            raise EngineError(f"the {self.record.part} is closed", "open the variant again")
        inputs = {spec.name: self._on_device(spec, feeds[spec.name]) for spec in self.inputs}
        with self._cuda.current():
            self._give_scratch()
            changed = {name: array.shape for name, array in inputs.items() if self._shapes.get(name) != array.shape}
            if changed:
                self._forget_graphs(0)
            for name, shape in changed.items():
                if not self._context.set_input_shape(name, shape):
                    raise EngineError(
                        f"the {self.record.part} refuses the shape {list(shape)} of {name}: {self._logger.said()}"
                    )
                self._shapes[name] = shape
            for name, array in inputs.items():
                self._bind(name, array.pointer)
            outputs = {}
            for spec, block in self._outputs:
                shape = tuple(self._context.get_tensor_shape(spec.name))
                outputs[spec.name] = CudaArray(self._cuda, block.pointer, shape, spec.dtype)
                self._bind(spec.name, block.pointer)
            self._launch((self._given, *(array.pointer for array in inputs.values())))
        return outputs

    def _on_device(self, spec: TensorRecord, feed: Any) -> CudaArray:
        """``feed`` where the engine can read it: itself, or a copy in the engine's own buffer for that input."""
        if isinstance(feed, CudaArray) and feed.pointer % ALIGNMENT == 0:
            return feed
        if spec.name not in self._inputs:
            self._inputs[spec.name] = self._cuda.alloc(bytes_of(spec, self._limits))
        own = CudaArray(self._cuda, self._inputs[spec.name].pointer, feed.shape, feed.dtype)
        if isinstance(feed, CudaArray):
            self._cuda.copy(own.pointer, feed)
        else:
            self._cuda.stage(f"{self.record.part} {spec.name}", own, feed)
        return own

    def _give_scratch(self) -> None:
        pointer = self._cuda.block(_SCRATCH, self._scratch).pointer
        if pointer == self._given:
            return
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(pointer, self._scratch)
        else:
            self._context.device_memory = pointer
        self._given = pointer

    def _bind(self, name: str, pointer: int) -> None:
        if self._bound.get(name) != pointer:
            self._context.set_tensor_address(name, pointer)
            self._bound[name] = pointer

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream_handle):
            raise EngineError(f"the {self.record.part} failed to run: {self._logger.said()}")

    def _launch(self, key: tuple[int, ...]) -> None:
        """Run it, from the third time of a place on as a graph, for as long as shapes stay.

        A context keeps what belongs to its shapes, and brings it up to date in the first run after a change. So a graph
        is captured right behind a run of the same, and none outlives the shapes that it was captured with: replayed
        after runs of others, it would read what is theirs.
        """
        if self._graphs is None:
            self._enqueue()
            return
        known = self._graphs.get(key)
        if known is not None:
            self._graphs.move_to_end(key)
            known.launch()
            return
        self._enqueue()
        if key not in self._graphs:
            self._graphs[key] = None
            self._forget_graphs(_GRAPHS_KEPT)
            return
        captured = capture(self._cuda, self._enqueue)
        if captured is None:  # this engine, or this driver, cannot: it is not tried again
            self._drop_graphs()
        else:
            self._graphs[key] = captured

    def _drop_graphs(self) -> None:
        self._forget_graphs(0)
        self._graphs = None

    def _forget_graphs(self, kept: int) -> None:
        while self._graphs is not None and len(self._graphs) > kept:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self._cuda.synchronize()
                oldest.close()

    def close(self) -> None:
        if self._runtime is None:
            return
        self._cuda.synchronize()
        self._drop_graphs()
        with self._cuda.current():
            # In this order: a context must not outlive its engine, nor an engine its runtime.
            self._context = None
            self._engine = None
            self._runtime = None
        for block in (*(block for _, block in self._outputs), *self._inputs.values()):
            block.free()
        self._outputs, self._inputs = [], {}


# --- what differs from release to release -----------------------------------------------------------------------------


def make_plain_context(trt: Any, engine: Any) -> Context:
    """A context without memory of its own."""
    if hasattr(trt, "ExecutionContextAllocationStrategy"):  # from 10.0
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def scratch_of(engine: Any) -> int:
    """Bytes that a context works in."""
    size = getattr(engine, "device_memory_size_v2", None)  # from 10.1; the only one from 11 on
    return int(engine.device_memory_size if size is None else size)


# --- what can be said before an engine is loaded ----------------------------------------------------------------------


def check_engine(path: Path, record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` unless the engine was built by the TensorRT that is installed here, all of its version."""
    built, here = record.toolchain.version, probe(record.backend).version
    if here == NOT_INSTALLED:
        raise ImportError("no module named tensorrt")
    if built != here:
        raise EngineError(
            f"{path} was built with TensorRT {built}, and {here} is installed here: an engine loads only with the "
            "version that built it",
            f"{rebuild}; or install TensorRT {built}",
        )


def check_gpu(path: Path, record: EngineRecord, cuda: Cuda, rebuild: str) -> None:
    """:class:`EngineError` unless the engine was built for this kind of GPU."""
    built = record.toolchain
    if built.compute_capability not in (None, cuda.compute_capability):
        raise EngineError(
            f"{path} was built for {built.gpu} (compute capability {built.compute_capability}), and this is "
            f"{cuda.name} ({cuda.compute_capability})",
            f"{rebuild} on this machine",
        )


def open_engine(
    path: Path, record: EngineRecord, options: EngineOptions, device: CudaDevice, variant: Variant | None, rebuild: str
) -> TensorRtEngine:
    """Open an engine that :func:`check_engine` let pass. Raises :class:`EngineError`."""
    check_gpu(path, record, device.cuda, rebuild)
    return TensorRtEngine(path, record, device.cuda, options, variant, rebuild)


_NUMPY_NAMES = {
    "FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "BOOL": "bool",
}  # fmt: skip


def check_tensors(path: Path, record: EngineRecord, engine: Any, rebuild: str) -> None:
    """:class:`EngineError` unless the engine has the tensors of its record, in those types: they are bound blindly."""
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    found = {name: _NUMPY_NAMES.get(engine.get_tensor_dtype(name).name, "?") for name in names}
    wanted = {spec.name: spec.dtype for spec in (*record.inputs, *record.outputs)}
    if found != wanted:
        names = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
        differ = [f"{name} is {found.get(name)}, not {wanted.get(name)}" for name in sorted(names)]
        raise EngineError(f"{path} has not the tensors of its record ({', '.join(differ)})", rebuild)
