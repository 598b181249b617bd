"""Timings that TensorRT builds share: what one build measured, the next need not.

One file, read before a build and written after it, under a lock and whole, with a note beside it (``<file>.json``) of
the TensorRT and GPU that it holds for. What holds for others is said and replaced; it is never an error, as a timing
cache saves time and decides nothing. Knows nothing of what is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from sam3_runtime.core.files import write_atomically
from sam3_runtime.engines.building.tensorrt_messages import BuildLog

_HOLDS_FOR = ("version", "gpu", "compute_capability")


class TimingCache:
    """The file ``path`` for builds with ``toolchain`` (its version, GPU and compute capability)."""

    def __init__(self, path: Path, toolchain: Mapping[str, Any], announce: Callable[[str], None] = print) -> None:
        self.path = path
        self._holds_for = {name: toolchain.get(name) for name in _HOLDS_FOR}
        self._announce = announce
        self._used: Any = None

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            yield

    def read(self) -> bytes:
        """The timings that hold here; none where there are none, or others."""
        with self._locked():
            return self._read()

    def _read(self) -> bytes:
        if not self.path.is_file():
            return b""
        try:
            noted = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            noted = None  # nobody knows what it holds for: TensorRT looks itself
        if noted not in (None, self._holds_for):
            self._announce(
                f"the timing cache {self.path} is of {_name(noted)}, and this is {_name(self._holds_for)}: a new one "
                "takes its place"
            )
            return b""
        return self.path.read_bytes()

    def write_larger(self, timings: bytes) -> None:
        """Put ``timings`` in the place of smaller ones: they were read before and only grow."""
        with self._locked():
            if len(timings) > len(self._read()):
                self._write(timings)

    def _write(self, timings: bytes) -> None:
        write_atomically(self.path, timings)
        write_atomically(self._note, (json.dumps(self._holds_for) + "\n").encode())

    # --- through TensorRT's own builder -------------------------------------------------------------------------------

    def attach(self, config: Any, log: BuildLog) -> None:
        """Give the timings to a build. What TensorRT says against them is no error of the build."""
        said = len(log.errors), len(log.warnings)
        timings = self.read()
        self._used = config.create_timing_cache(timings)
        if timings and (self._used is None or not config.set_timing_cache(self._used, False)):
            self._announce(f"TensorRT does not take the timing cache {self.path}: a new one takes its place")
            self._used, timings = config.create_timing_cache(b""), b""
        if not timings and self._used is not None:
            config.set_timing_cache(self._used, False)
        del log.errors[said[0] :], log.warnings[said[1] :]

    def keep(self, config: Any) -> None:
        """Add what the build measured to the file, and to what other builds have written meanwhile."""
        measured = config.get_timing_cache()
        if measured is None:
            return
        with self._locked():
            whole = config.create_timing_cache(self._read())
            if whole is None or not whole.combine(measured, False):
                whole = measured
            self._write(bytes(memoryview(whole.serialize())))
        # Not a moment longer than the configuration that they were made with.
        del measured, whole
        self._used = None


def _name(holds_for: Any) -> str:
    facts = holds_for if isinstance(holds_for, dict) else {}
    return f"TensorRT {facts.get('version')} on {facts.get('gpu')}"
