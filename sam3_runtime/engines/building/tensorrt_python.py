"""Builds TensorRT engines through its Python module, by a recipe; TensorRT 8.6 to 11.

Sets the flags that the installed release has, attaches the shared timing cache and calibration caches, and inspects the
engine. Flags, types and limits are decided by the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_calibrators import cached_calibrator
from sam3_runtime.engines.building.tensorrt_common import Network, make_logger, profile_shapes
from sam3_runtime.engines.building.tensorrt_islands import hold_islands
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, build_error
from sam3_runtime.engines.building.tensorrt_recipe import Recipe, known_tactics, mismatch
from sam3_runtime.engines.building.timing_cache import TimingCache
from sam3_runtime.families.base import Range


@dataclass(frozen=True)
class Seen:
    """TensorRT's report about an engine.

    ``types`` of its inputs and outputs (NVIDIA's names), the inspector's JSON, and the bytes that one context works in.
    """

    types: dict[str, str]
    inspected: str
    activation: int | None


def _prepare(trt: Any, task: Task, recipe: Recipe) -> Network:
    """Parse the graph and configure the build by the recipe."""
    network = Network(trt, "TensorRT", task, recipe.network_flags, recipe.newest_opset)
    config = network.config
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is asked for where float16 is too coarse: TF32 is no finer
    for name in recipe.builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if recipe.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace << 20)
    if recipe.level is not None:
        config.builder_optimization_level = recipe.level
    if recipe.tactics is not None:
        chosen = (name.upper() for name in known_tactics(recipe) if name in recipe.tactics)
        config.set_tactic_sources(sum(1 << int(getattr(trt.TacticSource, name)) for name in chosen))
    for tensor in (*network.inputs, *network.outputs):
        if tensor.name in recipe.retyped:
            tensor.dtype = trt.float16
        if not recipe.typed:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
    if recipe.wide:
        hold_islands(trt, network.layers, recipe.wide)
    return network


def build_engine(trt: Any, task: Task, recipe: Recipe, timings: TimingCache | None) -> BuildLog:
    """Build and write the engine. Raises :class:`OutOfMemory` and other :class:`BuildError` with NVIDIA's message."""
    network = _prepare(trt, task, recipe)
    calibrator = cached_calibrator(trt, recipe.calibration) if recipe.calibration else None
    if calibrator is not None:
        network.config.int8_calibrator = calibrator
    if timings is not None:
        timings.attach(network.config, network.log)
    serialized = network.compile()
    if recipe.calibration and (network.log.recalibrates or (calibrator is not None and calibrator.was_asked)):
        raise mismatch(recipe.calibration)
    if serialized is None:
        raise network.refused()
    task.engine.write_bytes(serialized)
    if timings is not None:
        timings.keep(network.config)
    network.close()
    network.log.explain_warnings()
    return network.log


def calibrate(
    trt: Any, task: Task, recipe: Recipe, make_calibrator: Callable[[Any], Any], batch: int, is_done: Callable[[], bool]
) -> frozenset[str]:
    """Run the build that calibrates, ``batch`` images at a time, until ``is_done`` or, before TensorRT 9, to its end.

    ``make_calibrator`` makes an ``IInt8Calibrator`` of the module that it is given. The engine is not kept. Returns the
    tensors that TensorRT called uniformly zero.
    """
    network = _prepare(trt, task, recipe)
    calibrator = make_calibrator(trt)
    network.config.int8_calibrator = calibrator
    fixed = {dim: Range(batch, batch, batch) for dim in task.ranges}
    network.config.set_calibration_profile(network.make_profile(fixed))
    monitor = _stop_when(trt, is_done) if hasattr(trt, "IProgressMonitor") else None
    if monitor is not None:
        network.config.progress_monitor = monitor
    if network.compile() is None and not is_done():
        raise network.refused()
    network.log.explain_warnings()
    return frozenset(network.log.zeros)


def _stop_when(trt: Any, is_done: Callable[[], bool]) -> Any:
    """Return a progress monitor (TensorRT 9 and newer) that ends the build as soon as ``is_done``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, *_: Any) -> None:
            pass

        def step_complete(self, *_: Any) -> bool:
            return not is_done()

        def phase_finish(self, *_: Any) -> None:
            pass

    return Monitor()


def look_into(trt: Any, task: Task) -> Seen:
    """Load the engine and inspect it. Raises :class:`BuildError` where it does not load."""
    log = BuildLog()
    runtime = trt.Runtime(make_logger(trt, log))
    engine = runtime.deserialize_cuda_engine(task.engine.read_bytes())
    if engine is None:
        raise build_error(f"TensorRT {trt.__version__} built {task.engine.name} and does not load it", log.errors)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    types = {name: engine.get_tensor_dtype(name).name for name in names}
    # The older of the two overflows at 2 GiB and is gone from 11.
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None:  # without one, formats that depend on shapes are not reported
        for name, (_, tuned, _) in profile_shapes(task, task.ranges).items():
            context.set_input_shape(name, tuned)
        inspector.execution_context = context
    inspected = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    # Each before the one that made it: Python would free them in the order of their names' assignment.
    del inspector
    del context
    del engine
    del runtime
    return Seen(types=types, inspected=inspected, activation=size)
