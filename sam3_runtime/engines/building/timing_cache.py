"""Timings that TensorRT builds share: what one build measured, the next need not measure.

One file, read before a build and written whole after it, under a lock, with a note beside it (``<file>.json``) of the
TensorRT and GPU that it is valid for. Timings of others are replaced, with a message; that is never an error, as they
only save time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from sam3_runtime.core.files import write_atomically
from sam3_runtime.engines.building.tensorrt_messages import BuildLog


class TimingCache:
    """The file ``path`` for builds with ``toolchain`` (its version, GPU and compute capability)."""

    def __init__(self, path: Path, toolchain: Mapping[str, Any], announce: Callable[[str], None] = print) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._note = path.with_name(f"{path.name}.json")
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._valid_for = {name: toolchain.get(name) for name in ("version", "gpu", "compute_capability")}
        self._announce = announce
        self._used: Any = None

    def read(self) -> bytes:
        """Return the timings that are valid here; empty where there are none."""
        with self._lock:
            if not self.path.is_file():
                return b""
            try:
                noted = json.loads(self._note.read_bytes())
            except (OSError, ValueError):
                noted = self._valid_for  # not known: TensorRT checks itself
            if noted == self._valid_for:
                return self.path.read_bytes()
            theirs, here = (f"TensorRT {one.get('version')} on {one.get('gpu')}" for one in (noted, self._valid_for))
            self._announce(f"the timing cache {self.path} is of {theirs}, and this is {here}: it is replaced")
            return b""

    def write_larger(self, timings: bytes) -> None:
        """Write ``timings`` where they are larger than those in the file: they were read before and only grow."""
        with self._lock:
            if len(timings) > len(self.read()):
                self._write(timings)

    def _write(self, timings: bytes) -> None:
        write_atomically(self.path, timings)
        write_atomically(self._note, (json.dumps(self._valid_for) + "\n").encode())

    def attach(self, config: Any, log: BuildLog) -> None:
        """Give the timings to a build of TensorRT's Python builder.

        Its messages about them are no errors of the build.
        """
        before = len(log.errors), len(log.warnings)
        timings = self.read()
        self._used = config.create_timing_cache(timings)
        if timings and (self._used is None or not config.set_timing_cache(self._used, False)):
            self._announce(f"TensorRT does not take the timing cache {self.path}: it is replaced")
            timings, self._used = b"", config.create_timing_cache(b"")
        if not timings and self._used is not None:
            config.set_timing_cache(self._used, False)
        del log.errors[before[0] :], log.warnings[before[1] :]

    def keep(self, config: Any) -> None:
        """Add the timings of a build to the file, and to those that other builds have written meanwhile."""
        measured = config.get_timing_cache()
        if measured is None:
            return
        with self._lock:
            whole = config.create_timing_cache(self.read())
            if whole is None or not whole.combine(measured, False):
                whole = measured
            self._write(bytes(memoryview(whole.serialize())))
        # No longer than the configuration that they were made with.
        del measured, whole
        self._used = None
