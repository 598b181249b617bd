"""From a graph to a serialised engine through NVIDIA's builder, for every TensorRT that has the API of 9 and newer.

TensorRT-RTX and TensorRT share it under two module names; ``trt`` is either. Networks are strongly typed: the graph's
types are the engine's. Profiles come from the contract, sizes from what the build says. Knows no generation and no
setting of either: its caller sets the builder's configuration.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.builders import Built, Task
from sam3_runtime.builders.tensorrt_messages import BuildLog, build_error
from sam3_runtime.config import TensorRecord
from sam3_runtime.contract import Tensor, fixed_dims, part_of_graph, resolve
from sam3_runtime.errors import BuildError

_TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "BOOL": "bool",
    "INT8": "int8", "FP8": "fp8",
}  # fmt: skip
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION")
_SHOWN_DEPTH = 2  # phases within phases within the whole: deeper ones come by the hundred
_PATIENCE = 5.0  # seconds without a word; small graphs are done before


@dataclass(frozen=True)
class Flavour:
    """One of NVIDIA's builders: its module, its name for people, the newest opset that its parser was made for."""

    trt: Any
    name: str
    newest_opset: int

    @property
    def version(self) -> str:
        return str(self.trt.__version__)


def build_network(flavour: Flavour, task: Task, configure: Callable[[Any], None]) -> Built:
    """Build ``task`` and write the engine. ``configure`` sets what the flavour's settings ask for.

    Raises :class:`BuildError` with NVIDIA's own words and what to do.
    """
    trt = flavour.trt
    _check_opset(flavour, task)
    log = BuildLog()
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(flavour, task, network, logger, log)
    config = builder.create_builder_config()
    configure(config)
    _set_profile(builder, config, network, task)
    monitor = make_monitor(trt, lambda text: task.announce(f"{task.path.name}: {text}"))
    config.progress_monitor = monitor
    inputs, outputs = _tensors(network, task)
    precision_got = count_products(network)
    with _overheard(log):
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise build_error(f"{flavour.name} {flavour.version} cannot build {task.path.name}", log.errors)
    _write(task.engine, serialized)
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


def _check_opset(flavour: Flavour, task: Task) -> None:
    """NVIDIA's parser takes an opset of any number and reads it as the newest that it knows: this does not."""
    if task.graph.opset > flavour.newest_opset:
        raise BuildError(
            f"{task.path.name} is of ONNX opset {task.graph.opset}, and the parser of {flavour.name} "
            f"{flavour.version} knows those up to {flavour.newest_opset}",
            "export it again with this version of sam3-runtime, which writes opset 17 (fp8: 19)",
        )


def _parse(flavour: Flavour, task: Task, network: Any, logger: Any, log: BuildLog) -> None:
    parser = flavour.trt.OnnxParser(network, logger)
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


def _set_profile(builder: Any, config: Any, network: Any, task: Task) -> None:
    """One profile over the ranges of the contract's dynamic dimensions."""
    spec = part_of_graph(task.graph.name)
    profile = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        shape = resolve(spec.input(tensor.name).shape, _fixed(task))
        sides = [resolve(shape, {dim: getattr(r, side) for dim, r in task.ranges.items()}) for side in _SIDES]
        profile.set_shape(tensor.name, *sides)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"the profile of {task.path.name} is not valid", "export the graph again with this version")


_SIDES = ("min", "opt", "max")


def _fixed(task: Task) -> dict[str, int]:
    return fixed_dims(task.dims, task.graph.resolution, task.graph.queries)


def _tensors(network: Any, task: Task) -> tuple[tuple[TensorRecord, ...], tuple[TensorRecord, ...]]:
    """Inputs and outputs as the network has them, their dynamic dimensions under the contract's names."""
    spec = part_of_graph(task.graph.name)
    found = {
        tensor.name: tensor
        for tensor in (
            *(network.get_input(place) for place in range(network.num_inputs)),
            *(network.get_output(place) for place in range(network.num_outputs)),
        )
    }

    def record(tensor: Tensor) -> TensorRecord:
        if tensor.name not in found:
            raise BuildError(f"{task.path.name} has no tensor {tensor.name}", f"export it again: snakemake {task.path}")
        dtype = _TYPES[found[tensor.name].dtype.name]
        return TensorRecord(name=tensor.name, shape=resolve(tensor.shape, _fixed(task)), dtype=dtype)

    return tuple(map(record, spec.inputs)), tuple(map(record, spec.outputs))


def count_products(network: Any) -> dict[str, int]:
    """Matrix products and convolutions by the type that they compute in: 8 bits where a dequantised tensor enters."""
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    stored: dict[str, str] = {}  # of each dequantised tensor, what it was
    counts: Counter[str] = Counter()
    for layer in layers:
        kind = layer.type.name
        if kind == "DEQUANTIZE":
            stored[layer.get_output(0).name] = _TYPES[layer.get_input(0).dtype.name]
        elif kind in _PRODUCTS:
            first = layer.get_input(0)
            counts[stored.get(first.name, _TYPES[first.dtype.name])] += 1
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


def _write(engine: Path, serialized: Any) -> None:
    with open(engine, "wb") as file:
        file.write(serialized)


def make_logger(trt: Any, log: BuildLog) -> Any:
    """NVIDIA's logger, handing all that it is told to ``log``. It must live as long as what it was given to."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            log.note(severity.name, text)

    return Logger()


def make_monitor(trt: Any, announce: Callable[[str], None]) -> Any:
    """A progress monitor: the outer phases, with the seconds since the build began, are printed; those that come after
    a while without a word are announced, so that a small graph announces nothing."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.started = self.told = time.monotonic()
            self.depth: dict[str, int] = {}

        def say(self, text: str) -> None:
            now = time.monotonic()
            line = f"{now - self.started:6.1f} s  {text}"
            if now - self.told < _PATIENCE:
                print(line, flush=True)
            else:
                self.told = now
                announce(line)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002 (NVIDIA's names)
            self.depth[name] = self.depth.get(parent, -1) + 1 if parent else 0
            if self.depth[name] < _SHOWN_DEPTH:
                self.say(f"{'  ' * self.depth[name]}{name}")

        def step_complete(self, name: str, step: int) -> bool:  # noqa: ARG002 (likewise)
            return True  # go on

        def phase_finish(self, name: str) -> None:
            with suppress(KeyError):
                if self.depth.pop(name) == 0:
                    self.say("done")

    return Monitor()
