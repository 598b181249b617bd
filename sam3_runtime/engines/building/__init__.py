"""Builds engines from graphs: one function for every backend, and the engine's record.

Job time only; the runtime never imports it. A backend's own module turns the graph into a file; the engine's
dependencies, profile and record are decided here, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.files import digest_of, sha256_of
from sam3_runtime.core.gpus import cuda_version, find_gpu
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.families.base import BATCH, Range
from sam3_runtime.graphs.read import Graph, read_graph
from sam3_runtime.jobs.engine_cache import get_or_build
from sam3_runtime.plan.settings import Algorithm
from sam3_runtime.plan.toolchain import release_of
from sam3_runtime.records.memory import process_mib
from sam3_runtime.records.records import EngineRecord, Layers, Sizes, TensorRecord, Toolchain


@dataclass(frozen=True)
class CalibrationCache:
    """8-bit scales as TensorRT's calibrators write them.

    ``key`` is the digest of what they were measured on; ``percentile`` is that of the algorithm of this name.
    """

    path: Path
    algorithm: Algorithm
    key: str = ""
    percentile: float | None = None


@dataclass(frozen=True)
class Task:
    """An engine to build: the graph at ``path``, over ``ranges`` of its dynamic dimensions, to ``engine``.

    ``precision`` is the one asked for, which a weakly typed builder may be asked for on a float32 graph. ``toolchain``
    is the key of the one that was planned with. ``announce`` gets a line of progress during a long build. The rest is
    TensorRT's: the scales of a calibrated engine, and options that do not affect the engine.
    """

    graph: Graph
    path: Path
    engine: Path
    ranges: Mapping[str, Range]
    settings: Mapping[str, Any]
    batch: int = 1
    precision: str = "fp16"
    toolchain: Mapping[str, Any] = field(default_factory=dict)
    announce: Callable[[str], None] = print
    calibration: CalibrationCache | None = None
    builder: Literal["auto", "trtexec", "python"] = "auto"
    timing_cache: Path | None = None

    @classmethod
    def of(cls, onnx: Path, engine: Path, *, batch: int, settings: Mapping[str, Any], **others: Any) -> Self:
        """Return the task for a graph's file. ``batch`` is the profile's largest; ``others`` are more fields."""
        graph = read_graph(onnx)
        ranges = graph.spec.profile(graph.part, graph.spec.dims(**graph.dims), batch, settings.get("optimal"))
        return cls(graph, onnx.resolve(), engine, ranges, settings, batch, **others)


@dataclass(frozen=True)
class Built:
    """What a backend's builder reports about the engine that it wrote; sizes are in bytes."""

    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    precision_got: dict[str, int]
    command: str
    weights: int | None = None
    scratch: int | None = None
    activation: int | None = None
    layers: Layers | None = None


def build_engine(
    task: Task, *, code: str, cache: Path, hold: Callable[[], AbstractContextManager[object]] = nullcontext
) -> EngineRecord:
    """Make ``task.engine`` a link into ``cache`` and write its record beside it; build only what is not cached.

    ``code`` is the digest of the code that builds, so that a changed builder makes a new engine; ``hold`` locks the
    GPU during a build, and a cache hit does not take it. Raises :class:`BuildError` with the backend's own message.
    """
    graph, spec = task.graph, BACKENDS[task.toolchain["backend"]]
    eight_bit = graph.quantize or task.calibration
    takes_flags = spec.takes_flags(release_of(str(task.toolchain["version"])))
    if graph.precision != task.precision and not (eight_bit and takes_flags and graph.precision == "fp32"):
        raise BuildError(
            f"{task.path} is a {graph.precision} graph, but {task.precision} was asked for",
            f"run snakemake --force {task.path}",
        )
    depends_on: dict[str, Any] = {
        "onnx": graph.sha256,
        "graph": graph.name,
        "toolchain": dict(task.toolchain),
        "settings": dict(task.settings),
        "precision": task.precision,
        "profile": {symbol: [r.min, r.opt, r.max] for symbol, r in task.ranges.items()},
        "calibration": task.calibration.key if task.calibration else graph.calibration_key,
        "scales": sha256_of(task.calibration.path) if task.calibration else None,
        "code": code,
    }
    key = digest_of(depends_on)[:32]

    def build(target: Path) -> EngineRecord:
        module = import_module(f"sam3_runtime.{spec.build_code[0].replace('/', '.')}")
        with hold():
            started = time.monotonic()
            built: Built = module.build(replace(task, engine=target))
            seconds = time.monotonic() - started
            gpu = find_gpu() if spec.builds_on == "gpu" else None
        peak = process_mib("VmHWM")  # a job is a process of its own
        machine = {"driver": gpu.driver, "cuda": cuda_version()} if gpu else {}
        return EngineRecord(
            part=graph.part.name,
            family=graph.family,
            axes=dict.fromkeys(graph.spec.keys) | graph.axes | {BATCH: task.batch},
            graph=graph.name,
            sha256=sha256_of(target),
            onnx_sha256=graph.sha256,
            checkpoint_digest=graph.checkpoint_digest,
            backend=spec.name,
            precision=task.precision,
            precision_got=built.precision_got,
            layers=built.layers,
            quantize="int8" if task.calibration else graph.quantize,
            calibration_key=depends_on["calibration"],
            dims=graph.dims,
            inputs=built.inputs,
            outputs=built.outputs,
            profile=depends_on["profile"],
            sizes=Sizes(
                file=target.stat().st_size, weights=built.weights, scratch=built.scratch, activation=built.activation
            ),
            build_seconds=round(seconds, 3),
            build_peak_mib=None if peak is None else round(peak, 1),
            command=built.command,
            toolchain=Toolchain(**task.toolchain, **machine),
            settings=depends_on["settings"],
            cache_key=key,
        )

    return get_or_build(task.engine, key, cache, build)
