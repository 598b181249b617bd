"""Builds engines from graphs: one function for every backend, and the record of what came out.

Job time only; the runtime never imports it. A backend's own module turns the graph into a file; what the engine
depends on, its profile and its record are decided here, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.files import digest_of, sha256_of
from sam3_runtime.core.gpus import cuda_version, find_gpu
from sam3_runtime.engines.cache import provide
from sam3_runtime.engines.registry import BACKENDS, BUILT
from sam3_runtime.families.base import BATCH, Range
from sam3_runtime.graphs.read import Graph, QuantizeName, read_graph
from sam3_runtime.measure.memory import process_mib
from sam3_runtime.plan.settings import Algorithm
from sam3_runtime.plan.toolchain import release_of
from sam3_runtime.records.records import EngineRecord, Layers, Sizes, TensorRecord, Toolchain

BuilderName = Literal["auto", "trtexec", "python"]


@dataclass(frozen=True)
class CalibrationCache:
    """Scales of 8 bits as TensorRT's calibrators write them. ``key`` says what they hold for; ``percentile`` is that
    of the algorithm of this name."""

    path: Path
    algorithm: Algorithm
    key: str = ""
    percentile: float | None = None


@dataclass(frozen=True)
class Task:
    """What a backend is to build: the graph at ``path``, over ``ranges`` of its dynamic dimensions, to ``engine``.

    ``precision`` is the one asked for, which a weakly typed builder may be asked for on a float32 graph. ``toolchain``
    is what was planned with. ``builder`` and ``timing_cache`` are TensorRT's means. ``announce`` is told, a line each,
    what people who wait want to know.
    """

    graph: Graph
    path: Path
    engine: Path
    ranges: Mapping[str, Range]
    settings: Mapping[str, Any]
    announce: Callable[[str], None] = print
    precision: str = "fp16"
    toolchain: Mapping[str, Any] = field(default_factory=dict)
    calibration: CalibrationCache | None = None
    builder: BuilderName = "auto"
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Built:
    """What a backend's builder tells about the engine that it wrote."""

    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    precision_got: dict[str, int]
    command: str
    weights: int | None = None  # bytes
    scratch: int | None = None  # bytes
    activation: int | None = None  # bytes
    layers: Layers | None = None


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    batch: int,
    precision: str,
    toolchain: Mapping[str, Any],
    settings: Mapping[str, Any],
    code: str,
    cache: Path,
    announce: Callable[[str], None] = print,
    calibration: CalibrationCache | None = None,
    builder: BuilderName = "auto",
    timing_cache: Path | None = None,
    hold: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> EngineRecord:
    """Provide ``engine`` (a link into ``cache``) and its record beside it, building only what is not there.

    ``batch`` is the profile's largest; ``toolchain`` the key of a :class:`Toolchain`; ``code`` the digest of what
    builds, so that an edit of a builder makes a new engine; ``announce`` gets a line of progress during a long build;
    ``hold`` locks the GPU during a build, and a cache hit does not take it. The rest is TensorRT's: the scales of a
    calibrated engine, and options that no engine differs by. :class:`BuildError` names what the backend said.
    """
    graph = read_graph(onnx)
    eight_bit = bool(graph.quantize or calibration)
    if graph.precision != precision and not (eight_bit and _takes_flags(toolchain) and graph.precision == "fp32"):
        raise BuildError(
            f"{onnx} is a {graph.precision} graph, and {precision} was asked for", f"run snakemake --force {onnx}"
        )
    ranges = graph.spec.profile(graph.part, graph.spec.dims(**graph.dims), batch, settings.get("optimal"))
    depends_on = {
        "onnx": graph.sha256,
        "graph": graph.name,
        "toolchain": dict(toolchain),
        "settings": dict(settings),
        "precision": precision,
        "profile": {symbol: [r.min, r.opt, r.max] for symbol, r in ranges.items()},
        "calibration": calibration.key if calibration else graph.calibration_key,
        "scales": sha256_of(calibration.path) if calibration else None,
        "code": code,
    }
    key = digest_of(depends_on)[:32]

    def build(target: Path) -> EngineRecord:
        task = Task(
            graph=graph,
            path=onnx.resolve(),
            engine=target,
            ranges=ranges,
            settings=settings,
            announce=announce,
            precision=precision,
            toolchain=toolchain,
            calibration=calibration,
            builder=builder,
            timing_cache=timing_cache,
        )
        quantize = "int8" if calibration else graph.quantize
        with hold():
            started = time.monotonic()
            built = _run(toolchain["backend"], task)
            return _record(graph, target, built, depends_on, quantize, key, batch, time.monotonic() - started)

    return provide(engine, key, cache, build)


def _takes_flags(toolchain: Mapping[str, Any]) -> bool:
    """Whether the backend can be told a precision that is not the graph's."""
    return BACKENDS[toolchain["backend"]].takes_flags(release_of(str(toolchain["version"])))


def _run(backend: str, task: Task) -> Built:
    """Let the backend build ``task``. Each is imported where it is used."""
    spec = BACKENDS[backend]
    if not spec.is_built:
        raise BuildError(f"engines of the backend {backend} are not built", f"choose one of {', '.join(BUILT)}")
    module = import_module(f"sam3_runtime.{spec.build_code[0].replace('/', '.')}")
    built: Built = module.build(task)
    return built


def _built_with(key: Mapping[str, Any]) -> Toolchain:
    """What the engine depends on, and the driver and CUDA of this machine where it was built on its GPU."""
    gpu = find_gpu() if BACKENDS[key["backend"]].builds_on == "gpu" else None
    return Toolchain(**key, **({"driver": gpu.driver, "cuda": cuda_version()} if gpu else {}))


def _record(
    graph: Graph,
    engine: Path,
    built: Built,
    depends_on: dict[str, Any],
    quantize: QuantizeName | None,
    key: str,
    batch: int,
    seconds: float,
) -> EngineRecord:
    peak = process_mib("VmHWM")  # a job is a process of its own
    return EngineRecord(
        part=graph.part.name,
        family=graph.family,
        axes=dict.fromkeys(graph.spec.keys) | graph.axes | {BATCH: batch},
        graph=graph.name,
        sha256=sha256_of(engine),
        onnx_sha256=graph.sha256,
        checkpoint_digest=graph.checkpoint_digest,
        backend=depends_on["toolchain"]["backend"],
        precision=depends_on["precision"],
        precision_got=built.precision_got,
        layers=built.layers,
        quantize=quantize,
        calibration_key=depends_on["calibration"],
        dims=graph.dims,
        inputs=built.inputs,
        outputs=built.outputs,
        profile={symbol: tuple(values) for symbol, values in depends_on["profile"].items()},
        sizes=Sizes(
            file=engine.stat().st_size, weights=built.weights, scratch=built.scratch, activation=built.activation
        ),
        build_seconds=round(seconds, 3),
        build_peak_mib=None if peak is None else round(peak, 1),
        command=built.command,
        toolchain=_built_with(depends_on["toolchain"]),
        settings=depends_on["settings"],
        cache_key=key,
    )
