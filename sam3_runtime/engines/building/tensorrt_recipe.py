"""How one TensorRT engine is built: flags, types, profile, limits, the same for the Python builder and for trtexec.

What differs between TensorRT 8.6 and 11 is decided here: how a network is typed, which flags there are, what a name
means. The recipe can be said as a command line, which a record keeps whichever of the two built the engine. Knows
neither's API and runs nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import CalibrationCache, Task
from sam3_runtime.engines.building.tensorrt_common import profile_shapes
from sam3_runtime.families.base import Part, Shape
from sam3_runtime.plan.toolchain import release_of

OLDEST = (8, 6)
STRONG_TYPING = (9,)
"""The first release that takes the graph's types for the engine's when told to."""
NO_FLAGS = (11,)
"""The first release without precision flags and calibrators."""
NO_BATCH_FLAG = (10,)
"""The first release whose networks always have an explicit batch dimension."""

_OPSETS = {(11,): 25, (10, 14): 23, (9,): 20, (8, 6): 17}
"""The newest opset that the parser of a release was made for, newest release first."""
_SMALLEST_WORKSPACE = 512  # MiB
_LARGEST_TRIES = 4
TRTEXEC_TYPES = {"float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Recipe:
    """``profile`` has the smallest, tuned and largest shape of each input; ``retyped`` the inputs and outputs that are
    float16 though the graph has them in float32; ``wide`` the ONNX nodes that a weakly typed network must be told to
    keep in float32. ``workspace`` is in MiB. None is TensorRT's own default."""

    release: tuple[int, ...]
    typed: bool
    fp16: bool
    int8: bool
    profile: Mapping[str, tuple[Shape, ...]]
    retyped: frozenset[str]
    wide: frozenset[str]
    workspace: int | None
    level: int | None
    tactics: tuple[str, ...] | None
    calibration: CalibrationCache | None

    @property
    def newest_opset(self) -> int:
        return next(opset for release, opset in _OPSETS.items() if self.release >= release)

    @property
    def network_flags(self) -> tuple[str, ...]:
        """Names of ``NetworkDefinitionCreationFlag``."""
        batch = ("EXPLICIT_BATCH",) if self.release < NO_BATCH_FLAG else ()
        return (*batch, "STRONGLY_TYPED") if self.typed else batch

    @property
    def builder_flags(self) -> tuple[str, ...]:
        """Names of ``BuilderFlag``; a strongly typed network takes none of them."""
        chosen = {"FP16": self.fp16, "INT8": self.int8, "OBEY_PRECISION_CONSTRAINTS": bool(self.wide)}
        return tuple(name for name, is_set in chosen.items() if is_set)

    def smaller(self, gpu_mib: int) -> list[Recipe]:
        """What to try, one after the other, where the build ran out of memory: half the workspace of the one before,
        on a GPU of ``gpu_mib`` MiB, which is the workspace of a recipe that names none."""
        last = self.workspace or gpu_mib
        found: list[Recipe] = []
        while last // 2 >= _SMALLEST_WORKSPACE and len(found) < _LARGEST_TRIES - 1:
            last //= 2
            found.append(replace(self, workspace=last))
        return found


def make_recipe(task: Task, version: str, *, calibrating: bool = False) -> Recipe:
    """How ``task`` is built by TensorRT ``version``; ``calibrating`` a build that only writes a calibration cache.

    Raises :class:`BuildError` for what that version cannot.
    """
    release, graph = release_of(version), task.graph
    if release < OLDEST:
        raise BuildError(f"TensorRT {version} is older than this project builds for", "install 8.6 or newer")
    implicit = calibrating or task.calibration is not None
    if implicit and release >= NO_FLAGS:
        raise BuildError(
            f"TensorRT {version} has no calibrators", "write `calibration: {method: qdq}` in variants.yaml"
        )
    # A float32 graph that is to run in float16 needs flags: those of 8 bits before TensorRT 10.
    flagged = implicit or graph.precision != task.precision
    typed = release >= STRONG_TYPING and not flagged
    if not typed and graph.quantize == "fp8":
        raise BuildError(f"TensorRT {version} builds no FP8 {graph.part.name}", "use quantize: int8, or TensorRT 10")
    spec, narrow = graph.part, task.precision == "fp16"
    settings = task.settings
    return Recipe(
        release=release,
        typed=typed,
        fp16=not typed and narrow,
        int8=not typed and (implicit or graph.quantize == "int8"),
        profile=profile_shapes(task, task.ranges),
        retyped=_of_the_graphs_type(spec) if narrow and graph.precision == "fp32" else frozenset(),
        wide=frozenset() if typed else frozenset(name for names in graph.islands.values() for name in names),
        workspace=settings.get("workspace_mib"),
        level=0 if calibrating else settings.get("optimization_level"),
        tactics=tuple(settings["tactic_sources"]) if settings.get("tactic_sources") is not None else None,
        calibration=task.calibration,
    )


def _of_the_graphs_type(spec: Part) -> frozenset[str]:
    """Inputs and outputs whose type is that of the precision, as opposed to coordinates and the like."""
    return frozenset(tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype == "float")


def known_tactics(recipe: Recipe) -> tuple[str, ...]:
    """The tactic sources that can be switched in that release."""
    own = ("edge_mask_convolutions", "jit_convolutions")
    return own if recipe.release >= NO_FLAGS else ("cublas", "cublas_lt", "cudnn", *own)


def command_line(recipe: Recipe, task: Task, engine: Path, timing_cache: Path | None = None) -> list[str]:
    """The recipe as arguments of ``trtexec``. Names and meanings are those of the release's own --help."""
    spec = task.graph.part
    arguments = [f"--onnx={task.path}", f"--saveEngine={engine}", "--skipInference", "--noTF32"]
    arguments += ["--profilingVerbosity=detailed"]
    dynamic = {name: sides for name, sides in recipe.profile.items() if len(set(sides)) > 1 or _varies(spec, name)}
    for side, place in (("min", 0), ("opt", 1), ("max", 2)):
        if dynamic:
            shapes = (f"{name}:{'x'.join(map(str, sides[place]))}" for name, sides in dynamic.items())
            arguments.append(f"--{side}Shapes={','.join(shapes)}")
    if recipe.typed and recipe.release < NO_FLAGS:
        arguments.append("--stronglyTyped")
    arguments += [flag for flag, is_set in (("--fp16", recipe.fp16), ("--int8", recipe.int8)) if is_set]
    if recipe.calibration:
        arguments.append(f"--calib={recipe.calibration.path}")
    if recipe.retyped:
        for option, tensors in (("input", spec.inputs), ("output", spec.outputs)):
            kinds = ("fp16" if tensor.name in recipe.retyped else "fp32" for tensor in tensors)
            arguments.append(f"--{option}IOFormats={','.join(f'{kind}:chw' for kind in kinds)}")
    if recipe.wide:
        told = ",".join(f"{name}:fp32" for name in sorted(recipe.wide))
        arguments += ["--precisionConstraints=obey", f"--layerPrecisions={told}", f"--layerOutputTypes={told}"]
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


def _varies(spec: Part, name: str) -> bool:
    return any(isinstance(dim, str) and dim in spec.dynamic for dim in spec.input(name).shape)


def say(recipe: Recipe, task: Task) -> str:
    """The command that builds this engine again, for the log and the record; files by name, as folders move."""
    shown = replace(task, path=Path(task.path.name))
    if recipe.calibration:
        named = replace(recipe.calibration, path=Path(recipe.calibration.path.name))
        recipe = replace(recipe, calibration=named)
    return shlex.join(["trtexec", *command_line(recipe, shown, Path(task.engine.name))])


def mismatch(cache: CalibrationCache) -> BuildError:
    """The error for scales that TensorRT does not take."""
    return BuildError(
        f"the calibration cache {cache.path} does not match: TensorRT wanted to calibrate again",
        f"it is of another TensorRT or algorithm: snakemake --forcerun {cache.path}",
    )
