"""NVIDIA's ``trtexec``: runs the command line that a recipe says, and believes the file and not the last line.

It has printed PASSED without an engine, ended by a signal, and calibrated on random data where a cache did not match:
each is an error here. Its output is the log's, line by line. POSIX, like the workflow.
"""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_common import check_opset
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, OutOfMemory, build_error, is_out_of_memory
from sam3_runtime.engines.building.tensorrt_progress import elapsed_time
from sam3_runtime.engines.building.tensorrt_recipe import Recipe, command_line, mismatch
from sam3_runtime.engines.building.timing_cache import TimingCache

_LINE = re.compile(r"^(?:\[[^\]]+\] )?\[(?P<severity>[VIWEF])\] (?:\[TRT\] )?(?P<text>.*)$")
_SEVERITIES = {"V": "VERBOSE", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "INTERNAL_ERROR"}
_INT64_BOUND = (9,)
"""The first release that binds int64 as such; those before take int32 instead."""


def build_engine(task: Task, recipe: Recipe, timings: TimingCache | None) -> tuple[BuildLog, str]:
    """Build and write the engine; what was said, and the inspector's JSON (empty where it exported none).

    Raises :class:`OutOfMemory` and other :class:`BuildError` in NVIDIA's words.
    """
    check_opset(task, recipe.newest_opset, "trtexec of this TensorRT")
    # A copy of the timings of its own, as it may be killed while it writes them; files as it wants them named.
    with TemporaryDirectory(prefix="sam3-trtexec-") as folder:
        layers, cache = Path(folder) / "layers.json", Path(folder) / "timing.cache"
        known = timings.read() if timings else b""
        if known:
            cache.write_bytes(known)
        arguments = command_line(recipe, task, task.engine, cache if timings else None)
        log = _run([*arguments, f"--exportLayerInfo={layers}"], task)
        if recipe.calibration and log.recalibrates:
            raise mismatch(recipe.calibration)
        if timings and cache.is_file():
            timings.write_larger(cache.read_bytes())
        log.explain_warnings()
        return log, layers.read_text() if layers.is_file() else ""


def _run(arguments: Sequence[str], task: Task) -> BuildLog:
    command = [which("trtexec") or "trtexec", *arguments]
    log = BuildLog()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=_end_with_the_job(),
    )
    with elapsed_time(lambda text: task.announce(f"{task.path.name}: {text}"), log), process:
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            _note(log, line.rstrip("\n"))
    _check(process.returncode, task, log)
    return log


def _end_with_the_job() -> Callable[[], None] | None:
    """What Linux does to trtexec when the job that started it is killed: otherwise it would go on alone."""
    if not sys.platform.startswith("linux"):
        return None
    library, parent_dies = ctypes.CDLL(None), 1  # PR_SET_PDEATHSIG
    return lambda: library.prctl(parent_dies, signal.SIGKILL)


def _note(log: BuildLog, line: str) -> None:
    found = _LINE.match(line)
    if found:
        log.note(_SEVERITIES[found["severity"]], found["text"])
    elif line:
        print(line, flush=True)


def _check(code: int, task: Task, log: BuildLog) -> None:
    """Raise the :class:`BuildError` that is due, whatever trtexec says of itself."""
    name = task.path.name
    if code < 0:
        raise BuildError(
            f"trtexec was killed while it built {name} ({signal.Signals(-code).name})",
            "most often the machine's memory is full: close what else runs, and give the same command again",
        )
    if code == 0 and task.engine.is_file() and task.engine.stat().st_size:
        return
    ended = f"ended with code {code}" if code else "says PASSED and wrote no engine"
    error = build_error(f"trtexec {ended} for {name}", log.errors)
    raise OutOfMemory(error.message, error.hint) if is_out_of_memory(log.errors) else error


def types_of(task: Task, recipe: Recipe) -> dict[str, str]:
    """The types (NVIDIA's names) of an engine's inputs and outputs, for want of TensorRT's module to ask."""
    integer = "INT64" if recipe.release >= _INT64_BOUND else "INT32"
    floating = "HALF" if task.precision == "fp16" else "FLOAT"
    names = {"float": floating, "float32": "FLOAT", "int64": integer, "bool": "BOOL"}
    spec = task.graph.part
    return {tensor.name: names[tensor.dtype] for tensor in (*spec.inputs, *spec.outputs)}
