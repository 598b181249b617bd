"""Run every job of the workflow in one frame: its log, its GPU, its errors and its cleanup.

A script in ``workflow_scripts/`` runs its one function inside :func:`job`. The job's output goes to its log file (by
file descriptor, as native code writes there too), a message for people ends it without a traceback, temporary files of
killed predecessors are removed, and the process is registered, so that :func:`unlock` can stop what a killed Snakemake
left running. Independent of the jobs' content. POSIX, like the workflow.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import Sam3Error, WorkFolderError
from sam3_runtime.core.files import (
    Owner,
    ProcessState,
    parts_in,
    process_is_alive,
    remove_abandoned_parts,
    this_process,
    write_atomically,
)
from sam3_runtime.jobs.gpu_lock import hold_gpu
from sam3_runtime.plan.paths import FOLDERS
from sam3_runtime.records.records import CheckpointLock

_REGISTER = Path(".snakemake/sam3-jobs")
_MAIN = Path(".snakemake/sam3-main")
_NO_SPACE = os.strerror(errno.ENOSPC)  # libraries wrap the error in exceptions of their own, with this text
_FREE_SPACE = "Hint: free disk space (sam3-runtime prune lists unused files) and run the same command again"


@contextmanager
def job(snakemake: Any, *, tee: bool = False, gpus: str = "") -> Iterator[Callable[[str], None]]:
    """Run the work of the job that ``snakemake`` describes, with its output in the job's log.

    Yields a function that logs a line and prints it to Snakemake's own standard error. Ends the process with 1 on
    failure: after the message alone for a :class:`Sam3Error`, after a traceback for a defect. With ``tee``, the log is
    printed at the end. ``gpus`` is ``build_gpus`` or ``run_gpus``, of which the job holds one.
    """
    for output in map(Path, snakemake.output):
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned_parts(output.parent, output.name)
    terminal = os.dup(2)
    _redirect(snakemake.log[0] if snakemake.log else None)
    faulthandler.enable(2)  # if native code of a library ends the process, the log has the Python stack
    entry = _register(_REGISTER / str(this_process()))
    failed = True

    def announce(text: str) -> None:
        print(text, flush=True)
        os.write(terminal, f"{text}\n".encode(errors="backslashreplace"))

    try:
        with hold_gpu(snakemake.config[gpus], announce) if gpus else nullcontext():
            yield announce
        failed = False
    except Sam3Error as error:
        print(f"Error: {error}")
    except Exception as error:
        if _NO_SPACE in str(error):
            print(f"Error: the disk is full: {error}\n{_FREE_SPACE}")
        else:
            traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        entry.unlink(missing_ok=True)
        if tee and snakemake.log:
            os.write(terminal, Path(snakemake.log[0]).read_bytes())
    if failed:
        sys.exit(1)


def read_lock(snakemake: Any) -> CheckpointLock:
    """Return the job's ``checkpoint.lock``, with the location that the checkpoint is loaded from here."""
    return CheckpointLock.read(Path(snakemake.input.lock)).at(snakemake.config["checkpoint_location"])


def _redirect(log: str | None) -> None:
    """Send file descriptors 1 and 2 to ``log``, as output of C++ libraries does not pass through ``sys.stderr``.

    Whatever the locale, the log is UTF-8, and no character ends a job with an encoding error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8" if log else None, errors="backslashreplace")
    if not log:
        return
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _register(entry: Path) -> Path:
    write_atomically(entry, f"{this_process()} {_started(os.getpid())}\n".encode())
    return entry


def _started(pid: int) -> str:
    """Return a process's start time, which distinguishes it from a later one of the same number; ``-`` off Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return "-"


def _registered(entry: Path) -> tuple[Owner, ProcessState] | None:
    """Return the process registered in ``entry``, and whether it still runs; None where none is registered."""
    try:
        text, started = entry.read_text().split()
    except (OSError, ValueError):
        return None
    owner = Owner.parse(text)
    if owner is None:
        return None
    state = owner.state()
    if state is ProcessState.RUNNING and _started(owner.pid) != started:
        state = ProcessState.GONE
    return owner, state


def register_main(folder: Path) -> None:
    """Register the Snakemake process that runs in ``folder``; called when a run starts."""
    _register(folder / _MAIN)


def is_running(folder: Path) -> bool:
    """Return whether another Snakemake than this process runs in ``folder``, as far as can be seen from here."""
    found = _registered(folder / _MAIN)
    return found is not None and found[0] != this_process() and found[1] is not ProcessState.GONE


def refuse_while_running(folder: Path, force: bool = False) -> None:
    """Raise :class:`WorkFolderError` while a Snakemake runs in ``folder`` or, unless ``force``, may run elsewhere."""
    found = _registered(folder / _MAIN)
    if found is None:
        return
    owner, state = found
    if state is ProcessState.RUNNING:
        raise WorkFolderError(
            f"snakemake (process {owner.pid}) is running in {folder.absolute()}", "stop it first: Ctrl-C there"
        )
    if state is ProcessState.ELSEWHERE and not force and any((folder / ".snakemake/locks").glob("*.lock")):
        raise WorkFolderError(
            f"snakemake was started in {folder.absolute()} on another machine or in another container "
            f"({owner.host}, process {owner.pid}), and may still run",
            "run the same command there, or, once that Snakemake has ended, here with --force",
        )


def unlock(folder: Path, patience: float = 10.0, force: bool = False) -> list[str]:
    """Clear what a killed Snakemake left in ``folder``: stop its jobs, remove its lock and half-written files.

    Jobs get ``patience`` seconds to end. Returns what was done, one line each. Raises :class:`WorkFolderError` while a
    Snakemake still runs there; with ``force``, one on another machine counts as ended.
    """
    if not (folder / ".snakemake").is_dir():
        raise WorkFolderError(
            f"{folder.absolute()} is not a work folder: it has no .snakemake/", "name it: --directory FOLDER"
        )
    refuse_while_running(folder, force)
    done = []
    for entry in sorted((folder / _REGISTER).glob("*")):
        found = _registered(entry)
        if found and found[1] is ProcessState.RUNNING:
            _stop(found[0].pid, patience)
            done.append(f"stopped the job that was still running (process {found[0].pid})")
        entry.unlink(missing_ok=True)
    for lock in sorted((folder / ".snakemake/locks").glob("*.lock")):
        lock.unlink()
        done.append(f"removed the lock {lock.name}")
    (folder / _MAIN).unlink(missing_ok=True)
    for name in FOLDERS:
        for parent in sorted({path.parent for path in (folder / name).rglob(".*.part")}):
            done += [f"removed the half-written {path.name}" for path in remove_abandoned_parts(parent)]
            done += [f"left {path.name}, which {owner.host} may be writing" for path, owner in parts_in(parent)]
    return done


def _stop(pid: int, patience: float) -> None:
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + patience
    while process_is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    if process_is_alive(pid):
        os.kill(pid, signal.SIGKILL)
        while process_is_alive(pid):
            time.sleep(0.05)
