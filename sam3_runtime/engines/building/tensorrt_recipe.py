"""How one TensorRT engine is built: flags, types, profile, limits, for the Python builder and for trtexec alike.

The differences between TensorRT 8.6 and 11 are decided here: how a network is typed, which flags there are, what a name
means. A record keeps the recipe as a command line, whichever of the two built the engine.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import CalibrationCache, Task
from sam3_runtime.engines.building.tensorrt_common import profile_shapes
from sam3_runtime.plan.toolchain import release_of

OLDEST = (8, 6)
STRONG_TYPING = (9,)
"""The first release that can take the graph's types for the engine's."""
NO_BATCH_FLAG = (10,)
"""The first release whose networks always have an explicit batch dimension."""
NO_FLAGS = (11,)
"""The first release without precision flags and calibrators."""

_OPSETS = {(11,): 25, (10, 14): 23, (9,): 20, (8, 6): 17}
"""The newest opset that the parser of a release was made for, newest release first."""
_SMALLEST_WORKSPACE = 512  # MiB
_LARGEST_TRIES = 4


@dataclass(frozen=True)
class Recipe:
    """All options of the build of one engine.

    ``retyped`` are the inputs and outputs that are float16 though the graph has them in float32; ``wide`` the ONNX
    nodes that a weakly typed network must compute in float32. ``workspace`` is in MiB. None is TensorRT's own default.
    """

    release: tuple[int, ...]
    typed: bool
    fp16: bool
    int8: bool
    retyped: frozenset[str]
    wide: frozenset[str]
    workspace: int | None
    level: int | None
    tactics: tuple[str, ...] | None
    calibration: CalibrationCache | None

    @property
    def newest_opset(self) -> int:
        """The newest opset that the release's parser reads."""
        return next(opset for release, opset in _OPSETS.items() if self.release >= release)

    @property
    def network_flags(self) -> list[str]:
        """Names of ``NetworkDefinitionCreationFlag``."""
        chosen = {"EXPLICIT_BATCH": self.release < NO_BATCH_FLAG, "STRONGLY_TYPED": self.typed}
        return [name for name, is_set in chosen.items() if is_set]

    @property
    def builder_flags(self) -> list[str]:
        """Names of ``BuilderFlag``; a strongly typed network takes none of them."""
        chosen = {"FP16": self.fp16, "INT8": self.int8, "OBEY_PRECISION_CONSTRAINTS": bool(self.wide)}
        return [name for name, is_set in chosen.items() if is_set]

    def smaller(self, gpu_mib: int) -> list[Recipe]:
        """Return the recipes to try, in this order, where the build runs out of memory.

        Each has half the workspace of the one before. Without a limit the workspace is the memory of the GPU,
        ``gpu_mib`` MiB.
        """
        sizes = [(self.workspace or gpu_mib) >> halved for halved in range(1, _LARGEST_TRIES)]
        return [replace(self, workspace=size) for size in sizes if size >= _SMALLEST_WORKSPACE]


def make_recipe(task: Task, version: str, *, calibrating: bool = False) -> Recipe:
    """Return how TensorRT ``version`` builds ``task``.

    ``calibrating``: for a build that only writes a calibration cache. Raises :class:`BuildError` for what that version
    does not support.
    """
    release, graph, part = release_of(version), task.graph, task.graph.part
    if release < OLDEST:
        raise BuildError(f"TensorRT {version} is older than this project builds for", "install 8.6 or newer")
    implicit = calibrating or task.calibration is not None
    if implicit and release >= NO_FLAGS:
        raise BuildError(
            f"TensorRT {version} has no calibrators", "write `calibration: {method: qdq}` in variants.yaml"
        )
    # A float32 graph that is to run in float16 needs flags: those of 8 bits before TensorRT 10.
    typed = release >= STRONG_TYPING and not implicit and graph.precision == task.precision
    if not typed and graph.quantize == "fp8":
        raise BuildError(f"TensorRT {version} builds no FP8 {part.name}", "use quantize: int8, or TensorRT 10")
    narrow, settings = task.precision == "fp16", task.settings
    # Those whose type is the precision, as opposed to coordinates and the like.
    own = [tensor.name for tensor in (*part.inputs, *part.outputs) if tensor.dtype == "float"]
    tactics = settings.get("tactic_sources")
    return Recipe(
        release=release,
        typed=typed,
        fp16=not typed and narrow,
        int8=not typed and (implicit or graph.quantize == "int8"),
        retyped=frozenset(own) if narrow and graph.precision == "fp32" else frozenset(),
        wide=frozenset() if typed else frozenset(name for names in graph.islands.values() for name in names),
        workspace=settings.get("workspace_mib"),
        level=0 if calibrating else settings.get("optimization_level"),
        tactics=None if tactics is None else tuple(tactics),
        calibration=task.calibration,
    )


def known_tactics(recipe: Recipe) -> tuple[str, ...]:
    """Return the tactic sources that can be switched in the recipe's release."""
    own = ("edge_mask_convolutions", "jit_convolutions")
    return own if recipe.release >= NO_FLAGS else ("cublas", "cublas_lt", "cudnn", *own)


def command_line(recipe: Recipe, task: Task, engine: Path, timing_cache: Path | None = None) -> list[str]:
    """Return the recipe as arguments of ``trtexec``, with names and meanings of the release's own --help."""
    part = task.graph.part
    arguments = [f"--onnx={task.path}", f"--saveEngine={engine}", "--skipInference", "--noTF32"]
    arguments += ["--profilingVerbosity=detailed"]
    # trtexec refuses shapes of an input that has only one.
    shapes = profile_shapes(task, task.ranges)
    dynamic = [spec.name for spec in part.inputs if set(spec.shape) & set(part.dynamic)]
    for index, side in enumerate(("min", "opt", "max")):
        if dynamic:
            listed = (f"{name}:{'x'.join(map(str, shapes[name][index]))}" for name in dynamic)
            arguments.append(f"--{side}Shapes={','.join(listed)}")
    switches = {
        "--stronglyTyped": recipe.typed and recipe.release < NO_FLAGS, "--fp16": recipe.fp16, "--int8": recipe.int8
    }  # fmt: skip
    arguments += [flag for flag, is_set in switches.items() if is_set]
    if recipe.calibration:
        arguments.append(f"--calib={recipe.calibration.path}")
    if recipe.retyped:
        for option, tensors in (("input", part.inputs), ("output", part.outputs)):
            kinds = (f"{'fp16' if tensor.name in recipe.retyped else 'fp32'}:chw" for tensor in tensors)
            arguments.append(f"--{option}IOFormats={','.join(kinds)}")
    if recipe.wide:
        nodes = ",".join(f"{name}:fp32" for name in sorted(recipe.wide))
        arguments += ["--precisionConstraints=obey", f"--layerPrecisions={nodes}", f"--layerOutputTypes={nodes}"]
    if recipe.workspace is not None:
        arguments.append(f"--memPoolSize=workspace:{recipe.workspace}")
    if recipe.level is not None:
        arguments.append(f"--builderOptimizationLevel={recipe.level}")
    if recipe.tactics is not None:
        switched = (f"{'+' if name in recipe.tactics else '-'}{name.upper()}" for name in known_tactics(recipe))
        arguments.append(f"--tacticSources={','.join(switched)}")
    if timing_cache is not None:
        arguments.append(f"--timingCacheFile={timing_cache}")
    return arguments


def shown_command(recipe: Recipe, task: Task) -> str:
    """Return the command that builds this engine again, for log and record; without folders, as they move."""
    shown = replace(task, path=Path(task.path.name))
    if recipe.calibration:
        named = replace(recipe.calibration, path=Path(recipe.calibration.path.name))
        recipe = replace(recipe, calibration=named)
    return shlex.join(["trtexec", *command_line(recipe, shown, Path(task.engine.name))])


def mismatch(cache: CalibrationCache) -> BuildError:
    """Return the error for scales that TensorRT does not take."""
    return BuildError(
        f"the calibration cache {cache.path} does not match: TensorRT wanted to calibrate again",
        f"it is of another TensorRT or algorithm: snakemake --forcerun {cache.path}",
    )
