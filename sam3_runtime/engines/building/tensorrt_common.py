"""From a graph to a serialised engine through NVIDIA's builder, for TensorRT 8.6 to 11 and TensorRT-RTX.

They share this API under two module names; ``trt`` is either. The caller decides how the network is typed and sets the
builder's configuration.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, build_error
from sam3_runtime.engines.running.tensorrt_logger import logger_of
from sam3_runtime.families.base import Range, Shape, Tensor, resolve
from sam3_runtime.records.records import TensorRecord

TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "BOOL": "bool",
    "INT8": "int8", "FP8": "fp8",
}  # fmt: skip
"""NVIDIA's names of types, and this project's."""


class Network:
    """A parsed graph, and NVIDIA's objects to build it with: set ``config``, then :meth:`compile`.

    ``log`` collects NVIDIA's messages.
    """

    def __init__(self, trt: Any, title: str, task: Task, flags: Iterable[str], newest_opset: int) -> None:
        """Parse the graph of ``task`` and set its profile.

        ``flags`` are names of ``NetworkDefinitionCreationFlag``. Raises :class:`BuildError` with NVIDIA's own message
        and what to do.
        """
        self.name = f"{title} {trt.__version__}"
        self.task, self.log = task, BuildLog()
        check_opset(task, newest_opset, f"the parser of {self.name}")
        logger = make_logger(trt, self.log)
        try:
            self._builder = trt.Builder(logger)
        except TypeError:  # raised by the bindings when NVIDIA's factory returns no builder
            raise build_error(f"{self.name} does not start", self.log.errors or self.log.warnings) from None
        bits = sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag)) for flag in flags)
        self._network = self._builder.create_network(bits)
        self._parser = trt.OnnxParser(self._network, logger)
        # From its path: the weights are in a file beside it, which a quantised graph shares with its sibling.
        if not self._parser.parse_from_file(str(task.path)):
            found = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
            errors = [f"{_node(error)}{error.desc()}" for error in found]
            raise build_error(f"{self.name} refuses {task.path.name}", errors or self.log.errors)
        self.config = self._builder.create_builder_config()
        self.config.add_optimization_profile(self.make_profile(task.ranges))
        network = self._network
        self.layers = [network.get_layer(index) for index in range(network.num_layers)]
        self.inputs = [network.get_input(index) for index in range(network.num_inputs)]
        self.outputs = [network.get_output(index) for index in range(network.num_outputs)]

    def make_profile(self, ranges: Mapping[str, Range]) -> Any:
        """Return an ``IOptimizationProfile`` over ``ranges`` of the dynamic dimensions."""
        profile = self._builder.create_optimization_profile()
        for name, sides in profile_shapes(self.task, ranges).items():
            profile.set_shape(name, *sides)
        return profile

    def compile(self) -> Any:
        """Return the serialised engine (``IHostMemory``); None where the builder gave up: see :meth:`refused`."""
        with progress(self.task, self.log):
            return self._builder.build_serialized_network(self._network, self.config)

    def refused(self) -> BuildError:
        """Return the error for a network that was not compiled."""
        return build_error(f"{self.name} cannot build {self.task.path.name}", self.log.errors)

    def close(self) -> None:
        """Free NVIDIA's objects, each before the one that made it."""
        self.layers, self.inputs, self.outputs = [], [], []
        for name in ("config", "_parser", "_network", "_builder"):
            setattr(self, name, None)


def announcer(task: Task) -> Callable[[str], None]:
    """Return a function that announces progress with the name of the graph."""
    return lambda text: task.announce(f"{task.path.name}: {text}")


@contextmanager
def progress(task: Task, log: BuildLog, interval: float = 30.0) -> Iterator[None]:
    """Announce every ``interval`` seconds how long the block has taken, and the last message of the build."""
    ended, started, announce = threading.Event(), time.monotonic(), announcer(task)

    def run() -> None:
        while not ended.wait(interval):
            announce(f"{time.monotonic() - started:6.1f} s  {log.last}")

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def check_opset(task: Task, newest: int, parser: str) -> None:
    """Raise :class:`BuildError` for an opset above ``newest``, which NVIDIA's parser would read as if it were that."""
    if task.graph.opset > newest:
        raise BuildError(
            f"{task.path.name} is of ONNX opset {task.graph.opset}, and {parser} supports opsets up to {newest}",
            "export it again with this version of sam3-runtime, which writes opset 17 (fp8: 19)",
        )


def _node(error: Any) -> str:
    """Return the node that a parser's error is about, where the release reports it."""
    operator = str(getattr(error, "node_operator", str)() or "")
    return f"{operator} {error.node_name()}: " if operator else ""


def profile_shapes(task: Task, ranges: Mapping[str, Range]) -> dict[str, tuple[Shape, ...]]:
    """Return the smallest, the tuned and the largest shape of every input."""
    sides = [
        task.graph.fixed | {symbol: getattr(r, side) for symbol, r in ranges.items()} for side in ("min", "opt", "max")
    ]
    return {one.name: tuple(resolve(one.shape, side) for side in sides) for one in task.graph.part.inputs}


def tensors(task: Task, types: Mapping[str, str]) -> tuple[tuple[TensorRecord, ...], tuple[TensorRecord, ...]]:
    """Return inputs and outputs with ``types`` (NVIDIA's names), their dynamic dimensions under the family's names.

    Raises :class:`BuildError` for one without a type.
    """

    def record(tensor: Tensor) -> TensorRecord:
        if tensor.name not in types:
            message = f"{task.path.name} lacks the tensor {tensor.name}"
            raise BuildError(message, f"export it again: snakemake {task.path}")
        dtype = TYPES[types[tensor.name]]
        return TensorRecord(name=tensor.name, shape=resolve(tensor.shape, task.graph.fixed), dtype=dtype)

    return tuple(map(record, task.graph.part.inputs)), tuple(map(record, task.graph.part.outputs))


def make_logger(trt: Any, log: BuildLog) -> Any:
    """Return NVIDIA's logger, which from now on passes every message to ``log``."""
    logger = logger_of(trt)
    logger.listener = log.note
    return logger
