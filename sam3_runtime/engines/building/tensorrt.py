"""TensorRT engines: built on the GPU that will run them, by trtexec where it is on PATH, else by the Python builder.

Both follow one recipe. Where a build runs out of memory it is tried again with a smaller workspace, and what came out
is looked into: the types of inputs and outputs, what layers run in, whether float32 islands hold.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from shutil import which
from typing import Any

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.gpus import find_gpu
from sam3_runtime.core.wording import percent
from sam3_runtime.engines.building import Built, Task, tensorrt_python, trtexec
from sam3_runtime.engines.building.inspector import (
    Layer,
    count_products,
    parse_layers,
    read_layers,
    report_layers,
    unseen_islands,
)
from sam3_runtime.engines.building.tensorrt_common import tensors
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, OutOfMemory
from sam3_runtime.engines.building.tensorrt_python import Seen
from sam3_runtime.engines.building.tensorrt_recipe import Recipe, make_recipe, say
from sam3_runtime.engines.building.timing_cache import TimingCache
from sam3_runtime.plan.toolchain import release_of, trtexec_version
from sam3_runtime.records.records import Layers

_HALF = 0.5
_INSTALL = "pip install 'sam3-runtime[tensorrt]'; on Jetson it comes with JetPack"


def build(task: Task) -> Built:
    """Build ``task`` on the GPU that CUDA shows first.

    Raises :class:`BuildError` where there is no GPU or no TensorRT, or it refuses the graph.
    """
    gpu = find_gpu()
    if gpu is None:
        raise BuildError(
            "TensorRT builds on the GPU that runs the engine, and no NVIDIA GPU was found",
            "try nvidia-smi; for a machine without one: backend: tensorrt-rtx or onnxruntime",
        )
    planned = str(task.toolchain["version"])
    with_trtexec = _takes_trtexec(task, planned)
    trt = find_tensorrt(planned) if with_trtexec else import_tensorrt(planned)
    recipe = make_recipe(task, planned)
    timings = TimingCache(task.timing_cache, task.toolchain, task.announce) if task.timing_cache else None
    tries = [recipe, *recipe.smaller(gpu.memory >> 20)]
    for attempt, following in zip(tries, [*tries[1:], None], strict=True):
        print(f"building with {'trtexec' if with_trtexec else 'the Python builder'}: {say(attempt, task)}", flush=True)
        try:
            if with_trtexec:
                log, inspected = trtexec.build_engine(task, attempt, timings)
            else:
                log, inspected = tensorrt_python.build_engine(trt, task, attempt, timings), ""
            return _built(trt, task, attempt, log, inspected)
        except OutOfMemory as error:
            if following is None:
                raise
            workspace = f"{following.workspace} MiB"
            task.announce(f"{task.path.name}: {error.message}; trying again with a workspace of {workspace}")
    raise AssertionError("the last try raises")


def calibrate(
    task: Task, make_calibrator: Callable[[Any], Any], batch: int, is_done: Callable[[], bool]
) -> frozenset[str]:
    """Let TensorRT calibrate ``task``'s float32 graph, ``batch`` images at a time.

    ``make_calibrator`` is given the module ``tensorrt`` and returns an ``IInt8Calibrator``, which gets its pictures
    asked for and its cache handed over while this runs. From TensorRT 9 on the build ends as soon as ``is_done``.
    Returns the tensors that TensorRT called uniformly zero: they can have no scale.

    Raises :class:`BuildError` where TensorRT has no calibrators or refuses the graph.
    """
    version = str(task.toolchain["version"])
    trt = import_tensorrt(version)
    # Tuned for the batch that it is shown, as the shapes are those of the calibration profile.
    tuned = {dim: replace(r, opt=batch, max=max(batch, r.max)) for dim, r in task.ranges.items()}
    task = replace(task, ranges=tuned)
    recipe = make_recipe(task, version, calibrating=True)
    return tensorrt_python.calibrate(trt, task, recipe, make_calibrator, batch, is_done)


def import_tensorrt(planned: str) -> Any:
    """The module ``tensorrt``. :class:`BuildError` where it is missing or of another version than was planned with."""
    trt = find_tensorrt(planned)
    if trt is None:
        raise BuildError("TensorRT is not installed here: there is no Python module tensorrt", _INSTALL)
    return trt


def find_tensorrt(planned: str) -> Any | None:
    """Likewise; nothing where it is missing, as beside a trtexec."""
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise
        return None
    except ImportError as error:
        raise BuildError(f"TensorRT is installed here and does not load: {error}", _INSTALL) from None
    if not _same_release(str(trt.__version__), planned):
        raise BuildError(
            f"TensorRT {trt.__version__} is imported here, and the build was planned with {planned}",
            "plan again with the environment that builds: the same command, run in it",
        )
    return trt


def _same_release(one: str, other: str) -> bool:
    """By three numbers: trtexec tells no more."""
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


def _built(trt: Any | None, task: Task, recipe: Recipe, log: BuildLog, inspected: str) -> Built:
    """Look into the engine: through TensorRT's module where it is, else by what trtexec exported."""
    if trt is None:
        seen = Seen(trtexec.types_of(task, recipe), inspected, log.memory.get("activation"))
    else:
        seen = tensorrt_python.look_into(trt, task, recipe)
    inputs, outputs = tensors(task, seen.types)
    found = _parse(seen.inspected)
    layers = read_layers(found, task.graph.products, recipe.wide) if found else None
    if layers:
        _tell(task, layers, unseen_islands(found, recipe.wide))
    return Built(
        inputs=inputs,
        outputs=outputs,
        precision_got=count_products(found, task.graph.products),
        command=say(recipe, task),
        weights=log.weights or task.engine.stat().st_size,
        scratch=log.memory.get("scratch"),
        activation=seen.activation,
        layers=layers,
    )


def _parse(inspected: str) -> list[Layer]:
    try:
        return parse_layers(inspected)
    except (ValueError, KeyError) as error:
        print(f"the inspector's layer information cannot be read ({error}): what layers run in is not known")
        return []


def _tell(task: Task, layers: Layers, unseen: Sequence[str]) -> None:
    for line in report_layers(layers, unseen):
        print(line, flush=True)
    share = layers.eight_bit_share
    if (task.graph.quantize or task.calibration) and share is not None and share < _HALF:
        task.announce(f"{task.path.name}: WARNING: only {percent(share)} of its matrix work is done in 8 bits")
