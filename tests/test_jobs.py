"""The frame around a job, where native code ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes
from types import SimpleNamespace
from sam3_runtime.jobs import job

def builds_an_engine():
    ctypes.string_at(0)

with job(SimpleNamespace(output=["out/engine"], log=["job.log"])):
    print("before", flush=True)
    builds_an_engine()
"""


def test_a_crash_in_native_code_says_in_the_log_what_called_it(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, check=False)
    assert run.returncode == -signal.SIGSEGV
    log = (tmp_path / "job.log").read_text()
    assert log.startswith("before\n")
    assert "Segmentation fault" in log
    assert "builds_an_engine" in log
