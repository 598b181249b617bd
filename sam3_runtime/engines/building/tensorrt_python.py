"""TensorRT's own Python builder, told what a recipe says; TensorRT 8.6 to 11.

Sets what each release has a name for, attaches the shared timing cache, hands over calibration caches, and looks into
the engine that came out. Decides nothing: flags, types and limits are the recipe's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_calibrators import cached_calibrator
from sam3_runtime.engines.building.tensorrt_common import (
    Flavour,
    Workbench,
    compile_network,
    make_logger,
    make_profile,
    network_flags,
    prepare,
    refused,
    write_engine,
)
from sam3_runtime.engines.building.tensorrt_islands import hold_islands
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, build_error
from sam3_runtime.engines.building.tensorrt_progress import make_monitor
from sam3_runtime.engines.building.tensorrt_recipe import Recipe, known_tactics, mismatch
from sam3_runtime.engines.building.timing_cache import TimingCache
from sam3_runtime.families.base import Range

_MIB = 1 << 20


@dataclass(frozen=True)
class Seen:
    """What TensorRT says about an engine: its inputs' and outputs' types (NVIDIA's names), the inspector's JSON, and
    the bytes that one context works in."""

    types: dict[str, str]
    inspected: str
    activation: int | None


def prepare_network(trt: Any, task: Task, recipe: Recipe) -> Workbench:
    """Parse the graph and set all that the recipe says, up to the build itself."""
    flavour = Flavour(trt, "TensorRT", recipe.newest_opset)
    bench = prepare(flavour, task, network_flags(trt, *recipe.network_flags))
    config = bench.config
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is asked for where float16 does not do: TF32 is no wider
    for name in recipe.builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if recipe.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace * _MIB)
    if recipe.level is not None:
        config.builder_optimization_level = recipe.level
    if recipe.tactics is not None:
        chosen = (name.upper() for name in known_tactics(recipe) if name in recipe.tactics)
        config.set_tactic_sources(sum(1 << int(getattr(trt.TacticSource, name)) for name in chosen))
    for tensor in (*bench.inputs, *bench.outputs):
        if tensor.name in recipe.retyped:
            tensor.dtype = trt.float16
        if not recipe.typed:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
    if recipe.wide:
        hold_islands(trt, bench.layers, recipe.wide)
    return bench


def build_engine(trt: Any, task: Task, recipe: Recipe, timings: TimingCache | None) -> BuildLog:
    """Build and write the engine. :class:`OutOfMemory` and other :class:`BuildError` in NVIDIA's words."""
    bench = prepare_network(trt, task, recipe)
    calibrator = cached_calibrator(trt, recipe.calibration) if recipe.calibration else None
    if calibrator is not None:
        bench.config.int8_calibrator = calibrator
    if timings is not None:
        timings.attach(bench.config, bench.log)
    serialized = compile_network(bench)
    if recipe.calibration and (bench.log.recalibrates or (calibrator is not None and calibrator.was_asked)):
        raise mismatch(recipe.calibration)
    if serialized is None:
        raise refused(bench)
    write_engine(task.engine, serialized)
    if timings is not None:
        timings.keep(bench.config)
    bench.close()
    bench.log.explain_warnings()
    return bench.log


def calibrate(
    trt: Any, task: Task, recipe: Recipe, make_calibrator: Callable[[Any], Any], batch: int, is_done: Callable[[], bool]
) -> frozenset[str]:
    """Run the build that calibrates, ``batch`` images at a time, until ``is_done`` or, before TensorRT 9, to its end.

    ``make_calibrator`` makes an ``IInt8Calibrator`` of the module that it is given. The engine is thrown away. Returns
    the tensors that TensorRT called uniformly zero.
    """
    bench = prepare_network(trt, task, recipe)
    calibrator = make_calibrator(trt)
    fixed = {dim: Range(batch, batch, batch) for dim in task.ranges}
    bench.config.int8_calibrator = calibrator
    bench.config.set_calibration_profile(make_profile(bench, fixed))
    if hasattr(trt, "IProgressMonitor"):
        bench.monitor = make_monitor(trt, lambda text: task.announce(f"{task.path.name}: {text}"), is_done)
    if compile_network(bench) is None and not is_done():
        raise refused(bench)
    bench.log.explain_warnings()
    return frozenset(bench.log.zeros)


def look_into(trt: Any, task: Task, recipe: Recipe) -> Seen:
    """Load the engine and ask what it is. :class:`BuildError` where it does not load."""
    log = BuildLog()
    logger = make_logger(trt, log)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(task.engine.read_bytes())
    if engine is None:
        raise build_error(f"TensorRT {trt.__version__} built {task.engine.name} and does not load it", log.errors)
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    types = {name: engine.get_tensor_dtype(name).name for name in names}
    # The older of the two overflows at 2 GiB and is gone from 11.
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None:  # else formats that depend on shapes are not told
        for name, (_, tuned, _) in recipe.profile.items():
            context.set_input_shape(name, tuned)
        inspector.execution_context = context
    inspected = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    # Each before what it was made from: names at the end of a function go in the order in which they came.
    del inspector
    del context
    del engine
    del runtime
    return Seen(types=types, inspected=inspected, activation=size)
