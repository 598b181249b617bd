"""Builds engines from graphs: one function for every backend, and the record of what came out.

Job time only; the runtime never imports it. A backend's own module turns the graph into a file; what the engine
depends on, its profile and its record are decided here, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.builders.cache import provide
from sam3_runtime.builders.graph import Graph, read_graph
from sam3_runtime.config import EngineRecord, Sizes, TensorRecord, Toolchain
from sam3_runtime.contract import ModelDims, Range, part_of_graph, profile
from sam3_runtime.errors import BuildError
from sam3_runtime.files import digest_of, sha256_of
from sam3_runtime.memory import process_mib


@dataclass(frozen=True)
class Task:
    """What a backend is to build: the graph at ``path``, over ``ranges`` of its dynamic dimensions, to ``engine``.

    ``announce`` is told, a line each, what people who wait want to know.
    """

    graph: Graph
    path: Path
    engine: Path
    ranges: Mapping[str, Range]
    settings: Mapping[str, Any]
    announce: Callable[[str], None] = print

    @property
    def dims(self) -> ModelDims:
        return ModelDims(**self.graph.dims)


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


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    batch: int,
    precision: str,
    toolchain: Mapping[str, Any],
    settings: Mapping[str, Any],
    cache: Path,
    announce: Callable[[str], None] = print,
) -> EngineRecord:
    """Provide ``engine`` (a link into ``cache``) and its record beside it, building only what is not there.

    ``batch`` is the profile's largest; ``toolchain`` the key of a :class:`Toolchain`; ``announce`` is told how far a
    long build is. :class:`BuildError` names what the backend said.
    """
    graph = read_graph(onnx)
    if graph.precision != precision:
        raise BuildError(
            f"{onnx} is a {graph.precision} graph, and {precision} was asked for", f"run snakemake --force {onnx}"
        )
    ranges = profile(part_of_graph(graph.name), ModelDims(**graph.dims), batch)
    depends_on = {
        "onnx": graph.sha256,
        "graph": graph.name,
        "toolchain": dict(toolchain),
        "settings": dict(settings),
        "precision": precision,
        "profile": {symbol: [r.min, r.opt, r.max] for symbol, r in ranges.items()},
        "calibration": graph.calibration_key,
    }
    key = digest_of(depends_on)[:32]

    def build(target: Path) -> EngineRecord:
        started = time.monotonic()
        built = _run(toolchain["backend"], Task(graph, onnx.resolve(), target, ranges, settings, announce))
        return _record(graph, target, built, depends_on, key, batch, time.monotonic() - started)

    return provide(engine, key, cache, build)


def _run(backend: str, task: Task) -> Built:
    """Let the backend build ``task``. Each is imported where it is used."""
    if backend == "onnxruntime":
        from sam3_runtime.builders import onnxruntime

        return onnxruntime.build(task.path, task.engine, task.settings)
    if backend == "tensorrt-rtx":
        from sam3_runtime.builders import tensorrt_rtx

        return tensorrt_rtx.build(task)
    raise BuildError(f"no builder for the backend {backend!r} in this version", "use `backend: onnxruntime`")


def _record(
    graph: Graph, engine: Path, built: Built, depends_on: dict[str, Any], key: str, batch: int, seconds: float
) -> EngineRecord:
    peak = process_mib("VmHWM")  # a job is a process of its own
    return EngineRecord(
        part=part_of_graph(graph.name).name,
        graph=graph.name,
        sha256=sha256_of(engine),
        onnx_sha256=graph.sha256,
        checkpoint_digest=graph.checkpoint_digest,
        backend=depends_on["toolchain"]["backend"],
        precision=depends_on["precision"],
        precision_got=built.precision_got,
        quantize=graph.quantize,
        calibration_key=graph.calibration_key,
        dims=graph.dims,
        resolution=graph.resolution,
        queries=graph.queries,
        batch=batch,
        inputs=built.inputs,
        outputs=built.outputs,
        profile={symbol: tuple(values) for symbol, values in depends_on["profile"].items()},
        sizes=Sizes(
            file=engine.stat().st_size, weights=built.weights, scratch=built.scratch, activation=built.activation
        ),
        build_seconds=round(seconds, 3),
        build_peak_mib=None if peak is None else round(peak, 1),
        command=built.command,
        toolchain=Toolchain(**depends_on["toolchain"]),
        settings=depends_on["settings"],
        cache_key=key,
    )
