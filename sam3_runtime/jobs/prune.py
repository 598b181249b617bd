"""Find and remove unused files: those of variants that are no longer listed, and cached engines without a user.

Job time, POSIX.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sam3_runtime.core.files import ProcessState, parts_in
from sam3_runtime.jobs.engine_cache import Entry, UserState, entries
from sam3_runtime.jobs.job import refuse_while_running
from sam3_runtime.plan.paths import steps
from sam3_runtime.plan.planning import DEFAULT_CACHE, Plan


@dataclass(frozen=True)
class Unused:
    """An unused file or folder, and why. ``size`` is in bytes, 0 for a link; ``entry`` is set for a cached engine."""

    path: Path
    why: str
    size: int
    entry: Entry | None = None


@dataclass(frozen=True)
class Kept:
    """Cached engines whose only users are work folders that are gone or were moved. ``size`` is in bytes."""

    folders: tuple[Path, ...]
    size: int


def find_unused(plan: Plan, folder: Path, gone: bool = False) -> tuple[list[Unused], list[Kept]]:
    """Return what can be removed, links before their targets, and the cached engines that are kept to be safe.

    These are of work folders that are not where they were, which may have been moved; ``gone`` removes them too.
    Raises :class:`WorkFolderError` while a Snakemake runs in ``folder``.
    """
    refuse_while_running(folder)
    folder = folder.resolve()
    keep = {folder / file for step in steps(plan) for file in step.files}
    unused = [
        Unused(directory, "the variant is no longer listed", _size(directory))
        for directory in sorted((folder / "engines").glob("b[0-9]*"))
        if directory.name not in plan.names and not directory.is_symlink()
    ]
    going = {path for path in _made_by_jobs(folder) if path not in keep}
    unused += [Unused(path, "no listed variant needs it", _size(path)) for path in sorted(going)]
    kept: dict[tuple[Path, ...], int] = {}
    for cache in {(folder / cache).resolve() for cache in (plan.cache_folder(), DEFAULT_CACHE)}:
        for entry in entries(cache):
            lost = _lost_users(entry, folder, going)
            if lost is not None and (gone or not lost):
                why = "no work folder links this cached engine"
                unused.append(Unused(entry.folder, why, _size(entry.folder), entry))
            elif lost:
                kept[lost] = kept.get(lost, 0) + _size(entry.folder)
        for part, owner in parts_in(cache):
            if owner.state() is ProcessState.GONE:
                unused.append(Unused(part, "half-written, and its process has ended", _size(part)))
    return unused, [Kept(folders, size) for folders, size in kept.items()]


def _made_by_jobs(folder: Path) -> Iterator[Path]:
    """Yield the files that jobs made outside of the variants' own folders, without files that are being written."""
    patterns = ("onnx/*.*", "onnx/r*/*", "reference/r*", "calibration/r*", "engines/store/*/*")
    results = ("accuracy/b[0-9]*.json", "bench/b[0-9]*.json", "bench/baselines/r*")
    for pattern in patterns + results:
        yield from (path for path in folder.glob(pattern) if not path.name.startswith("."))


def _lost_users(entry: Entry, folder: Path, going: set[Path]) -> tuple[Path, ...] | None:
    """Return the work folders that linked a cached engine and are gone; None where a link to it stays."""
    users = entry.users()
    if any(state is UserState.USES and user != folder for user, state in users.items()):
        return None
    engine = entry.engine
    links = (folder / "engines/store").rglob(engine.name) if engine else ()
    if any(link.resolve() == engine and link not in going for link in links):
        return None
    return tuple(sorted(user for user, state in users.items() if state is UserState.GONE))


def _size(path: Path) -> int:
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(_size(inner) for inner in path.rglob("*") if not inner.is_dir())


def remove(unused: Unused) -> bool:
    """Remove the file or folder; return False for a cached engine that is in use again."""
    if unused.entry is not None:
        with unused.entry.held(timeout=0) as held:
            if not held or UserState.USES in unused.entry.users().values():
                return False
            shutil.rmtree(unused.path)
    elif unused.path.is_dir() and not unused.path.is_symlink():
        shutil.rmtree(unused.path)
    else:
        unused.path.unlink(missing_ok=True)
    return True
