"""The frame around a job, where native code ends it; and what a Snakemake that was killed leaves, here or elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sam3_runtime.core import files
from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.jobs import job as jobs

PROGRAM = """
import ctypes
from types import SimpleNamespace
from sam3_runtime.jobs.job import job

def builds_an_engine():
    ctypes.string_at(0)

with job(SimpleNamespace(output=["out/engine"], log=["job.log"])):
    print("before", flush=True)
    builds_an_engine()
"""


SAYS = """
from types import SimpleNamespace
from sam3_runtime.jobs.job import job

with job(SimpleNamespace(output=["out/engine"], log=["job.log"])) as announce:
    print("汽车 caf\\udce9")
    announce("汽车 caf\\udce9")
"""


def test_no_character_ends_a_job_that_has_done_its_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAYS]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "job.log").read_bytes().decode("utf-8") == "汽车 caf\\udce9\n" * 2
    assert run.stderr.decode("utf-8") == "汽车 caf\\udce9\n"


def test_a_crash_in_native_code_says_in_the_log_what_called_it(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, check=False)
    assert run.returncode == -signal.SIGSEGV
    log = (tmp_path / "job.log").read_text()
    assert log.startswith("before\n")
    assert "Segmentation fault" in log
    assert "builds_an_engine" in log


@pytest.fixture
def left_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder in which another machine runs Snakemake, or did."""
    other = replace(files.this_process(), host="other")
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "this_process", lambda: other)
        jobs.register_main(tmp_path)
    (tmp_path / ".snakemake/locks/0.input.lock").touch()
    for name in ("onnx", "accuracy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f".a.json.{other}.part").touch()
        (tmp_path / name / f".b.json.{replace(files.this_process(), pid=2**22 + 1)}.part").touch()
    return tmp_path


def test_what_may_run_on_another_machine_is_cleared_by_force_alone(left_elsewhere: Path) -> None:
    for refused in (jobs.unlock, jobs.refuse_while_running):
        with pytest.raises(WorkFolderError, match=r"on another machine .*\(other, process \d+\)"):
            refused(left_elsewhere)
    assert jobs.is_running(left_elsewhere)
    done = jobs.unlock(left_elsewhere, force=True)
    assert "removed the lock 0.input.lock" in done
    assert sum(line.startswith("removed the half-written .b.json") for line in done) == 2
    assert sum(line.startswith("left .a.json") and line.endswith("other may be writing") for line in done) == 2
    assert not jobs.is_running(left_elsewhere)


def test_what_ended_on_another_machine_bars_nobody(left_elsewhere: Path) -> None:
    (left_elsewhere / ".snakemake/locks/0.input.lock").unlink()  # as Snakemake does at its end
    jobs.refuse_while_running(left_elsewhere)
    assert any(line.startswith("removed the half-written") for line in jobs.unlock(left_elsewhere))
    assert not jobs.is_running(left_elsewhere)
