"""One build, verification or timing at a time on each GPU, across a user's processes and work folders.

Snakemake's own limit (``resources: gpu=1``) ends at one process. The locks lie in a folder of the user's own under the
temporary one, where nobody else may write: two users do not see each other's. Job time, POSIX; knows nothing of what is
done on the GPU.
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
from sam3_runtime.core.gpus import VISIBLE_DEVICES, Gpu, asked_for, find_gpu, find_gpus

_POLL = 0.5  # seconds


@contextmanager
def hold_gpu(gpus: Sequence[int], announce: Callable[[str], None] = print) -> Iterator[Gpu | None]:
    """Hold the first of ``gpus`` (by number, ``core/gpus.py``) that is free, and show this process no other.

    Must come before anything opens CUDA. That GPU is GPU 0 then. Holds nothing where ``gpus`` is empty or the machine
    shows no GPU: whoever needs one says so. Says once whom it waits for. :class:`WorkFolderError` for a number that
    there is not, and where the folder of the locks is not safe.
    """
    cards = find_gpus()
    if not gpus or not cards:
        yield None
        return
    named = zip(gpus, asked_for(cards, gpus), strict=True)
    folder = _own_folder()
    # By UUID, as numbers change with what is shown; that of a slice of a GPU may have a slash.
    locks = {index: folder / f"{gpu.uuid.replace('/', '-') or f'gpu-{index}'}.lock" for index, gpu in named}
    index, lock = _first_free(locks, announce)
    shown, note = os.environ.get(VISIBLE_DEVICES), locks[index].with_suffix(".holder")
    try:
        note.write_text(f"process {os.getpid()} in {Path.cwd()}")
        if cards[index].uuid:
            os.environ[VISIBLE_DEVICES] = cards[index].uuid
        find_gpu.cache_clear()
        print(f"GPU {index}: {cards[index].name}", flush=True)
        yield cards[index]
    finally:
        _restore(shown)
        find_gpu.cache_clear()
        note.unlink(missing_ok=True)
        lock.release()


def _restore(shown: str | None) -> None:
    if shown is None:
        os.environ.pop(VISIBLE_DEVICES, None)
    else:
        os.environ[VISIBLE_DEVICES] = shown


def _own_folder() -> Path:
    """Where the locks are. Whoever else could write there could have this user's files written over, by a link, or keep
    every job waiting."""
    folder = Path(tempfile.gettempdir()) / f"sam3-runtime-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise WorkFolderError(
            f"{folder} is not a folder that this user alone owns and can use ({stat.filemode(found.st_mode)}, owner "
            f"{found.st_uid}): locks of GPUs are kept there",
            "remove it, or let TMPDIR name a folder of your own, the same for all your runs",
        )
    return folder


def _first_free(locks: dict[int, Path], announce: Callable[[str], None]) -> tuple[int, FileLock]:
    told = False
    while True:
        for index, path in locks.items():
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return index, lock
        if not told:
            held = "; ".join(f"GPU {index} by {_holder(path)}" for index, path in locks.items())
            announce(f"waiting for a GPU: held are {held}")
            told = True
        time.sleep(_POLL)


def _holder(lock: Path) -> str:
    try:
        return lock.with_suffix(".holder").read_text()
    except OSError:
        return "another process"
