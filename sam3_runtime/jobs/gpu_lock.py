"""One build, verification or timing at a time on each GPU, across the processes and work folders of a user.

Snakemake's own limit (``resources: gpu=1``) ends at one process. The locks are in a folder of the temporary folder that
only the user may write to: two users do not see each other's. Job time, POSIX.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.gpus import VISIBLE_DEVICES, Gpu, find_gpus, select_gpus

_POLL = 0.5  # seconds


@contextmanager
def hold_gpu(gpus: Sequence[int], announce: Callable[[str], None] = print) -> Iterator[Gpu | None]:
    """Lock the first free GPU of ``gpus`` (by number, ``core/gpus.py``) and hide the others from this process.

    Call it before anything opens CUDA: the locked GPU is GPU 0 inside. Locks nothing where ``gpus`` is empty or the
    machine has no GPU. ``announce`` gets one message when it has to wait. Raises :class:`WorkFolderError` for a number
    without a GPU, and where the folder of the locks is not safe.
    """
    visible = find_gpus()
    if not gpus or not visible:
        yield None
        return
    chosen = dict(zip(gpus, select_gpus(visible, gpus), strict=True))
    folder = _lock_folder()
    # By UUID, as numbers change with what is visible; that of a MIG instance may contain a slash.
    locks = {index: folder / f"{gpu.uuid.replace('/', '-')}.lock" for index, gpu in chosen.items()}
    index, lock = _first_free(locks, announce)
    setting, holder = os.environ.get(VISIBLE_DEVICES), locks[index].with_suffix(".holder")
    try:
        holder.write_text(f"process {os.getpid()} in {Path.cwd()}")
        os.environ[VISIBLE_DEVICES] = chosen[index].uuid
        print(f"GPU {index}: {chosen[index].name}", flush=True)
        yield chosen[index]
    finally:
        os.environ.pop(VISIBLE_DEVICES, None)
        if setting is not None:
            os.environ[VISIBLE_DEVICES] = setting
        holder.unlink(missing_ok=True)
        lock.release()


def _lock_folder() -> Path:
    """Return the folder of the locks.

    Another user who could write there could let this user's files be overwritten through a link, or keep every job
    waiting.
    """
    folder = Path(tempfile.gettempdir()) / f"sam3-runtime-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise WorkFolderError(
            f"{folder} is not a folder that only this user owns and can use ({stat.filemode(found.st_mode)}, owner "
            f"{found.st_uid}): it would contain the locks of GPUs",
            "remove it, or let TMPDIR name a folder of your own, the same for all your runs",
        )
    return folder


def _first_free(locks: dict[int, Path], announce: Callable[[str], None]) -> tuple[int, FileLock]:
    waiting = False
    while True:
        for index, path in locks.items():
            lock = FileLock(path)
            with suppress(Timeout):
                lock.acquire(blocking=False)
                return index, lock
        if not waiting:
            held = "; ".join(f"GPU {index} is held by {_holder(path)}" for index, path in locks.items())
            announce(f"waiting for a GPU: {held}")
            waiting = True
        time.sleep(_POLL)


def _holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".holder").read_text()
    except OSError:
        return "another process"
