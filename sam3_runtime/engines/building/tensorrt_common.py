"""From a graph to a serialised engine through NVIDIA's builder, for TensorRT 8.6 to 11 and TensorRT-RTX.

They share it under two module names; ``trt`` is either. Profiles come from the family, sizes from what the build
says. Knows no generation and no setting of either: its caller says how the network is typed and sets the builder's
configuration.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Built, Task
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, OutOfMemory, build_error, is_out_of_memory
from sam3_runtime.engines.building.tensorrt_progress import elapsed_time, make_monitor
from sam3_runtime.engines.running.tensorrt_logger import logger_of
from sam3_runtime.families.base import Range, Shape, Tensor, resolve
from sam3_runtime.records.records import TensorRecord

TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "BOOL": "bool",
    "INT8": "int8", "FP8": "fp8",
}  # fmt: skip
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION")


@dataclass(frozen=True)
class Flavour:
    """One of NVIDIA's builders: its module, its name for people, the newest opset that its parser was made for."""

    trt: Any
    name: str
    newest_opset: int

    @property
    def version(self) -> str:
        return str(self.trt.__version__)


@dataclass
class Workbench:
    """A parsed network and its builder. All of NVIDIA's objects, as each needs those that it was made with."""

    flavour: Flavour
    task: Task
    log: BuildLog
    logger: Any
    builder: Any
    network: Any
    parser: Any
    config: Any
    monitor: Any = None

    @property
    def inputs(self) -> list[Any]:
        return [self.network.get_input(place) for place in range(self.network.num_inputs)]

    @property
    def outputs(self) -> list[Any]:
        return [self.network.get_output(place) for place in range(self.network.num_outputs)]

    @property
    def layers(self) -> list[Any]:
        return [self.network.get_layer(place) for place in range(self.network.num_layers)]

    def close(self) -> None:
        """Let go of NVIDIA's objects, each before what it was made from."""
        self.monitor = self.config = None
        self.parser = None
        self.network = None
        self.builder = None


def network_flags(trt: Any, *names: str) -> int:
    """Bits of ``NetworkDefinitionCreationFlag``."""
    return sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in names)


def prepare(flavour: Flavour, task: Task, flags: int) -> Workbench:
    """Parse ``task`` into a network of those ``flags`` and set its profile.

    Raises :class:`BuildError` with NVIDIA's own words and what to do.
    """
    trt = flavour.trt
    check_opset(task, flavour.newest_opset, f"the parser of {flavour.name} {flavour.version}")
    log = BuildLog()
    logger = make_logger(trt, log)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # what the bindings make of a builder that there is none of
        raise build_error(f"{flavour.name} {flavour.version} does not start", log.errors or log.warnings) from None
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    _parse(flavour, task, parser, log)
    bench = Workbench(flavour, task, log, logger, builder, network, parser, builder.create_builder_config())
    if bench.config.add_optimization_profile(make_profile(bench, task.ranges)) < 0:
        raise BuildError(f"the profile of {task.path.name} is not valid", "export the graph again with this version")
    return bench


def compile_network(bench: Workbench) -> Any:
    """The serialised engine (``IHostMemory``); nothing where the builder gave up, whose reasons are in the log."""
    trt, task = bench.flavour.trt, bench.task

    def announce(text: str) -> None:
        task.announce(f"{task.path.name}: {text}")

    with _overheard(bench.log):
        if not hasattr(trt, "IProgressMonitor"):
            with elapsed_time(announce, bench.log):
                return bench.builder.build_serialized_network(bench.network, bench.config)
        bench.monitor = bench.monitor or make_monitor(trt, announce)
        bench.config.progress_monitor = bench.monitor
        return bench.builder.build_serialized_network(bench.network, bench.config)


def refused(bench: Workbench) -> BuildError:
    """The error for a network that was not compiled."""
    flavour = bench.flavour
    said = bench.log.errors
    error = build_error(f"{flavour.name} {flavour.version} cannot build {bench.task.path.name}", said)
    return OutOfMemory(error.message, error.hint) if is_out_of_memory(said) else error


def build_network(flavour: Flavour, task: Task, configure: Callable[[Any], None]) -> Built:
    """Build ``task``, strongly typed, and write the engine. ``configure`` sets what the flavour's settings ask for.

    Raises :class:`BuildError` with NVIDIA's own words and what to do.
    """
    bench = prepare(flavour, task, network_flags(flavour.trt, "STRONGLY_TYPED"))
    configure(bench.config)
    inputs, outputs = tensors(task, {tensor.name: tensor.dtype.name for tensor in (*bench.inputs, *bench.outputs)})
    precision_got = count_products(bench.layers)
    serialized = compile_network(bench)
    if serialized is None:
        raise refused(bench)
    write_engine(task.engine, serialized)
    log = bench.log
    log.explain_warnings()
    return Built(
        inputs=inputs,
        outputs=outputs,
        precision_got=precision_got,
        command=f"{flavour.name} {flavour.version}: {task.path.name}, strongly typed",
        weights=log.weights,
        scratch=log.memory.get("scratch"),
        activation=log.memory.get("activation"),
    )


def check_opset(task: Task, newest: int, parser: str) -> None:
    """NVIDIA's parser takes an opset of any number and reads it as the newest that it knows: this does not."""
    if task.graph.opset > newest:
        raise BuildError(
            f"{task.path.name} is of ONNX opset {task.graph.opset}, and {parser} knows those up to {newest}",
            "export it again with this version of sam3-runtime, which writes opset 17 (fp8: 19)",
        )


def _parse(flavour: Flavour, task: Task, parser: Any, log: BuildLog) -> None:
    # By its path: the weights lie in a file beside it, which a quantised graph shares with its sibling.
    if parser.parse_from_file(str(task.path)):
        return
    found = [parser.get_error(place) for place in range(parser.num_errors)]
    said = [f"{_node(error)}{error.desc()}" for error in found]
    raise build_error(f"{flavour.name} {flavour.version} refuses {task.path.name}", said or log.errors)


def _node(error: Any) -> str:
    """Which node a parser's error is about, for TensorRTs that tell."""
    operator = str(getattr(error, "node_operator", str)() or "")
    return f"{operator} {error.node_name()}: " if operator else ""


def make_profile(bench: Workbench, ranges: Mapping[str, Range]) -> Any:
    """One profile (``IOptimizationProfile``) over ``ranges`` of the dynamic dimensions."""
    profile = bench.builder.create_optimization_profile()
    for name, sides in profile_shapes(bench.task, ranges).items():
        profile.set_shape(name, *sides)
    return profile


_SIDES = ("min", "opt", "max")


def profile_shapes(task: Task, ranges: Mapping[str, Range]) -> dict[str, tuple[Shape, ...]]:
    """The smallest, the tuned and the largest shape of every input."""
    return {
        tensor.name: tuple(
            resolve(tensor.shape, task.graph.fixed | {dim: getattr(r, side) for dim, r in ranges.items()})
            for side in _SIDES
        )
        for tensor in task.graph.part.inputs
    }


def tensors(task: Task, types: Mapping[str, str]) -> tuple[tuple[TensorRecord, ...], tuple[TensorRecord, ...]]:
    """Inputs and outputs of those ``types`` (NVIDIA's names), their dynamic dimensions under the family's names."""
    spec = task.graph.part

    def record(tensor: Tensor) -> TensorRecord:
        if tensor.name not in types:
            raise BuildError(f"{task.path.name} has no tensor {tensor.name}", f"export it again: snakemake {task.path}")
        dtype = TYPES[types[tensor.name]]
        return TensorRecord(name=tensor.name, shape=resolve(tensor.shape, task.graph.fixed), dtype=dtype)

    return tuple(map(record, spec.inputs)), tuple(map(record, spec.outputs))


def count_products(layers: Iterable[Any]) -> dict[str, int]:
    """Matrix products and convolutions by the type that they compute in: 8 bits where a dequantised tensor enters."""
    stored: dict[str, str] = {}  # of each dequantised tensor, what it was
    counts: Counter[str] = Counter()
    for layer in layers:
        kind = layer.type.name
        if kind == "DEQUANTIZE":
            stored[layer.get_output(0).name] = TYPES[layer.get_input(0).dtype.name]
        elif kind in _PRODUCTS:
            first = layer.get_input(0)
            counts[stored.get(first.name, TYPES[first.dtype.name])] += 1
    return dict(sorted(counts.items()))


@contextmanager
def _overheard(log: BuildLog) -> Iterator[None]:
    """Let ``log`` take the warnings that the compiler writes past its logger, straight to standard error.

    They are read back from the file that standard error goes to, as it does in every job, so that nothing is lost
    should the process die; elsewhere they are only seen.
    """
    kept = os.fstat(2)
    yield
    with suppress(OSError):
        if stat.S_ISREG(kept.st_mode):
            with open("/proc/self/fd/2", "rb") as file:
                file.seek(kept.st_size)
                log.overhear(file.read().decode(errors="replace"))


def write_engine(engine: Path, serialized: Any) -> None:
    with open(engine, "wb") as file:
        file.write(serialized)


def make_logger(trt: Any, log: BuildLog) -> Any:
    """NVIDIA's logger, handing all that it is told from now on to ``log``."""
    logger = logger_of(trt)
    logger.listener = log.note
    return logger
