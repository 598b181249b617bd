"""Builds engines with NVIDIA's ``trtexec``, and checks the file and not the tool's last line.

It has printed PASSED without an engine, ended by a signal, and calibrated on random data where a cache did not match:
each is an error here. Its output goes to the log, line by line. Linux, like TensorRT's builds.
"""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_common import check_opset, progress
from sam3_runtime.engines.building.tensorrt_messages import BuildLog, build_error
from sam3_runtime.engines.building.tensorrt_recipe import STRONG_TYPING, Recipe, command_line, mismatch
from sam3_runtime.engines.building.timing_cache import TimingCache

_LINE = re.compile(r"^(?:\[[^\]]+\] )?\[(?P<severity>[VIWEF])\] (?:\[TRT\] )?(?P<text>.*)$")
_SEVERITIES = {"V": "VERBOSE", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "INTERNAL_ERROR"}
_PARENT_DIES = 1  # PR_SET_PDEATHSIG


def build_engine(task: Task, recipe: Recipe, timings: TimingCache | None) -> tuple[BuildLog, str]:
    """Build and write the engine; returns the messages, and the inspector's JSON (empty where none was exported).

    Raises :class:`OutOfMemory` and other :class:`BuildError` with NVIDIA's message.
    """
    check_opset(task, recipe.newest_opset, "trtexec of this TensorRT")
    # A copy of the timings of its own, as it may be killed while it writes them.
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
    name, log, library = task.path.name, BuildLog(), ctypes.CDLL(None)
    process = subprocess.Popen(
        [which("trtexec") or "trtexec", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Otherwise it would go on alone when the job that started it is killed.
        preexec_fn=lambda: library.prctl(_PARENT_DIES, signal.SIGKILL),
    )
    with progress(task, log), process:
        for line in process.stdout or ():
            found = _LINE.match(line.rstrip("\n"))
            if found:
                log.note(_SEVERITIES[found["severity"]], found["text"])
            else:
                print(line, end="", flush=True)
    code = process.returncode
    if code < 0:
        raise BuildError(
            f"trtexec was killed while it built {name} ({signal.Signals(-code).name})",
            "most often the machine's memory is full: close what else runs, and give the same command again",
        )
    if code or not (task.engine.is_file() and task.engine.stat().st_size):
        ended = f"ended with code {code}" if code else "reported PASSED and wrote no engine"
        raise build_error(f"trtexec {ended} for {name}", log.errors)
    return log


def types_of(task: Task, recipe: Recipe) -> dict[str, str]:
    """Return the types (NVIDIA's names) of an engine's inputs and outputs where there is no TensorRT module to ask.

    Releases without strong typing bind int64 as int32.
    """
    integer = "INT64" if recipe.release >= STRONG_TYPING else "INT32"
    floating = "HALF" if task.precision == "fp16" else "FLOAT"
    names = {"float": floating, "float32": "FLOAT", "int64": integer, "bool": "BOOL"}
    part = task.graph.part
    return {tensor.name: names[tensor.dtype] for tensor in (*part.inputs, *part.outputs)}
