"""TensorRT engines: built on the GPU that will run them, by trtexec where it is on PATH, else by the Python builder.

Both follow one recipe. A build that runs out of memory is repeated with a smaller workspace, and the engine is
inspected: the types of inputs and outputs and of its layers, and whether float32 exceptions are kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from shutil import which
from typing import Any

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.core.wording import percent
from sam3_runtime.engines.building import Built, Task, tensorrt_python, trtexec
from sam3_runtime.engines.building.inspector import Layer, inspect_layers, parse_layers, report_layers
from sam3_runtime.engines.building.tensorrt_common import announcer, tensors
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, OutOfMemory
from sam3_runtime.engines.building.tensorrt_python import Seen
from sam3_runtime.engines.building.tensorrt_recipe import Recipe, make_recipe, shown_command
from sam3_runtime.engines.building.timing_cache import TimingCache
from sam3_runtime.plan.toolchain import release_of, trtexec_version

_HALF = 0.5
_INSTALL = "pip install 'sam3-runtime[tensorrt]'; on Jetson it comes with JetPack"


def build(task: Task) -> Built:
    """Build ``task`` on the first GPU that CUDA shows.

    Raises :class:`BuildError` where there is no GPU or no TensorRT, or it refuses the graph.
    """
    gpu = find_gpu()
    if gpu is None:
        raise BuildError(
            "TensorRT builds on the GPU that runs the engine, and no NVIDIA GPU was found",
            "check nvidia-smi; for a machine without one: backend: tensorrt-rtx or onnxruntime",
        )
    planned = str(task.toolchain["version"])
    with_trtexec = _takes_trtexec(task, planned)
    trt = _find_tensorrt(planned, required=not with_trtexec)
    recipe = make_recipe(task, planned)
    timings = TimingCache(task.timing_cache, task.toolchain, task.announce) if task.timing_cache else None
    for smaller in (*recipe.smaller(gpu.memory >> 20), None):
        builder = "trtexec" if with_trtexec else "the Python builder"
        print(f"building with {builder}: {shown_command(recipe, task)}", flush=True)
        try:
            if with_trtexec:
                log, inspected = trtexec.build_engine(task, recipe, timings)
            else:
                log, inspected = tensorrt_python.build_engine(trt, task, recipe, timings), ""
            break
        except OutOfMemory as error:
            if smaller is None:
                raise
            announcer(task)(f"{error.message}; trying again with a workspace of {smaller.workspace} MiB")
            recipe = smaller
    return _built(trt, task, recipe, log, inspected)


def calibrate(
    task: Task, make_calibrator: Callable[[Any], Any], batch: int, is_done: Callable[[], bool]
) -> frozenset[str]:
    """Let TensorRT calibrate ``task``'s float32 graph, ``batch`` images at a time.

    ``make_calibrator`` makes an ``IInt8Calibrator`` of TensorRT's module; the build ends as soon as ``is_done``.
    Returns the tensors that TensorRT called uniformly zero: they can have no scale. Raises :class:`BuildError` where
    TensorRT has no calibrators or refuses the graph.
    """
    version = str(task.toolchain["version"])
    trt = _find_tensorrt(version, required=True)
    # Tuned for the batch that it gets, as the shapes are those of the calibration profile.
    tuned = {dim: replace(r, opt=batch, max=max(batch, r.max)) for dim, r in task.ranges.items()}
    task = replace(task, ranges=tuned)
    recipe = make_recipe(task, version, calibrating=True)
    return tensorrt_python.calibrate(trt, task, recipe, make_calibrator, batch, is_done)


def _find_tensorrt(planned: str, *, required: bool) -> Any:
    """Return the module ``tensorrt``; None where it is missing and not ``required``, as beside a trtexec.

    Raises :class:`BuildError` where it does not load or is of another version than was planned with.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        if missing and not required:
            return None
        what = "is not installed here: there is no Python module tensorrt" if missing else f"does not load: {error}"
        raise BuildError(f"TensorRT {what}", _INSTALL) from None
    if not _same_release(str(trt.__version__), planned):
        raise BuildError(
            f"TensorRT {trt.__version__} is imported here, and the build was planned with {planned}",
            "plan again with the environment that builds: the same command, run in it",
        )
    return trt


def _same_release(one: str, other: str) -> bool:
    """Compare three numbers: trtexec reports no more."""
    return release_of(one)[:3] == release_of(other)[:3]


def _takes_trtexec(task: Task, planned: str) -> bool:
    """Whether trtexec is to build: asked for, or there and of the version that was planned with."""
    if task.builder == "python":
        return False
    # It reads every calibration cache as that of the entropy calibrator.
    is_able = task.calibration is None or task.calibration.algorithm == "entropy"
    here = trtexec_version()
    if task.builder == "auto":
        return is_able and here is not None and _same_release(here, planned)
    if not is_able:
        raise BuildError(
            "trtexec reads every calibration cache as the entropy calibrator's, and this one is of another algorithm",
            "write `build: {tensorrt: {builder: python}}`, or calibrate with `algorithm: entropy`",
        )
    if which("trtexec") is None:
        raise BuildError("trtexec is not on PATH", "add its folder (/usr/src/tensorrt/bin), or use builder: auto")
    if here is not None and not _same_release(here, planned):
        raise BuildError(f"trtexec is of TensorRT {here}, and the build was planned with {planned}", "use one of both")
    return True


def _built(trt: Any, task: Task, recipe: Recipe, log: BuildLog, exported: str) -> Built:
    """Inspect the engine: through TensorRT's module where it is there, else by trtexec's ``exported`` JSON."""
    if trt is None:
        seen = Seen(trtexec.types_of(task, recipe), exported, log.memory.get("activation"))
    else:
        seen = tensorrt_python.look_into(trt, task)
    inputs, outputs = tensors(task, seen.types)
    layers: list[Layer] = []
    try:
        layers = parse_layers(seen.inspected)
    except (ValueError, KeyError) as error:
        print(f"the inspector's JSON cannot be read ({error}): the types of layers are unknown")
    found = inspect_layers(layers, task.graph.products, recipe.wide)
    if layers:
        print("\n".join(report_layers(found)), flush=True)
        share = found.layers.eight_bit_share
        if (task.graph.quantize or task.calibration) and share is not None and share < _HALF:
            announcer(task)(f"WARNING: only {percent(share)} of its matrix work is done in 8 bits")
    return Built(
        inputs=inputs,
        outputs=outputs,
        precision_got=found.products,
        command=shown_command(recipe, task),
        weights=log.weights or task.engine.stat().st_size,
        scratch=log.memory.get("scratch"),
        activation=seen.activation,
        layers=found.layers if layers else None,
    )
