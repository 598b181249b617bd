"""One build, verification or timing at a time on each GPU, across a user's processes and work folders.

Snakemake's own limit (``resources: gpu=1``) ends at one process. Job time, POSIX; knows nothing of what is done on the
GPU.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sam3_runtime.errors import WorkFolderError
from sam3_runtime.gpus import VISIBLE_DEVICES, Gpu, find_gpu, find_gpus

_POLL = 0.5  # seconds


@contextmanager
def hold_gpu(gpus: Sequence[int], announce: Callable[[str], None] = print) -> Iterator[Gpu | None]:
    """Hold the first of ``gpus`` (numbers as ``nvidia-smi`` has them) that is free, and show this process no other.

    Must come before anything opens CUDA, which then counts that card as its first. Holds nothing where ``gpus`` is
    empty or the machine shows no card: whoever needs one says so. Says once whom it waits for.
    """
    cards = find_gpus()
    if not gpus or not cards:
        yield None
        return
    missing = [index for index in gpus if index >= len(cards)]
    if missing:
        raise WorkFolderError(
            f"build.gpu names GPU {missing[0]}, and this machine shows {len(cards)}", "see nvidia-smi"
        )
    locks = {index: _path(cards[index], index) for index in gpus}
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


def _path(gpu: Gpu, index: int) -> Path:
    """By the card's own name where it has one, as numbers change with what is shown."""
    folder = Path(tempfile.gettempdir()) / f"sam3-runtime-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{gpu.uuid or f'gpu-{index}'}.lock"


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
