"""The engine cache: engines by the digest of everything that they depend on.

Snakemake deletes a job's outputs before the job starts, so an engine that was only there would be lost to a rebuild
that fails. Engines are here instead, and the store has links. Going back to old settings links the old engine. Several
work folders may share one cache, also one that they cannot write to.

    <cache>/<key>/<name>.engine, <name>.engine.json      one engine and its record
    <cache>/<key>/users                                  the work folders that linked it: inode and path, a line each
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import (
    is_writable,
    link_relatively,
    remove_abandoned_parts,
    temporary_name,
    write_atomically,
)
from sam3_runtime.plan.planning import DEFAULT_CACHE
from sam3_runtime.records.integrity import difference, stamp
from sam3_runtime.records.records import EngineRecord


class UserState(Enum):
    """What is now at the path of a work folder that linked an engine."""

    USES = "links it"
    LEFT = "exists and links it no longer"
    GONE = "does not exist any more: deleted, or moved"


@dataclass(frozen=True)
class Entry:
    """One cached engine."""

    folder: Path

    @property
    def engine(self) -> Path | None:
        """The engine's file; None where it is missing."""
        return next(self.folder.glob("*.engine"), None)

    @property
    def record(self) -> EngineRecord | None:
        """The engine's record; None where it is missing or damaged."""
        try:
            return EngineRecord.read(self.engine.with_name(f"{self.engine.name}.json")) if self.engine else None
        except RecordError:
            return None

    def is_whole(self) -> bool:
        """Return whether the engine is there and has the digest in its record."""
        engine, record = self.engine, self.record
        return engine is not None and record is not None and difference(engine, record, "always") is None

    @contextmanager
    def held(self, timeout: float = -1) -> Iterator[bool]:
        """Lock this entry against other processes; yields False where one has it and ``timeout`` (seconds) is over."""
        lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"))
        try:
            acquired = lock.acquire(timeout=timeout)
        except Timeout:
            yield False
            return
        with acquired:
            yield True

    def users(self) -> dict[Path, UserState]:
        """Return the work folders that linked this engine."""
        return {Path(path): self._state(Path(path), inode) for path, inode in self._listed().items()}

    def _state(self, folder: Path, inode: str) -> UserState:
        engine, store = self.engine, folder / "engines/store"
        if engine and any(link.resolve() == engine.resolve() for link in store.rglob(engine.name)):
            return UserState.USES
        # If another folder is at that path now, the one that linked the engine may have been moved.
        return UserState.LEFT if inode in (_inode(folder), "") and folder.is_dir() else UserState.GONE

    def _listed(self) -> dict[str, str]:
        """Paths of work folders and their inodes, which a folder keeps when it is moved; former versions wrote none."""
        users = self.folder / "users"
        lines = users.read_text().splitlines() if users.is_file() else []
        split = (("", line) if line.startswith("/") else line.split(" ", 1) for line in lines if line)
        return {path: inode for inode, path in split}

    def add_user(self, folder: Path) -> None:
        """Record that ``folder`` links this engine; this replaces the path that it was moved from."""
        path, inode = str(folder.resolve()), _inode(folder)
        before = self._listed()
        listed = {known: other for known, other in before.items() if other != inode} | {path: inode}
        if listed != before:
            lines = [f"{inode} {path}\n" for path, inode in listed.items()]
            write_atomically(self.folder / "users", "".join(lines).encode())


def _inode(folder: Path) -> str:
    try:
        found = folder.stat()
    except OSError:
        return "-"
    return f"{found.st_dev}:{found.st_ino}"


def get_or_build(
    engine: Path, key: str, cache: Path, build: Callable[[Path], EngineRecord], own: Path = Path(DEFAULT_CACHE)
) -> EngineRecord:
    """Make ``engine`` a link to the cached engine of that key, and copy its record beside it; build it if needed.

    ``build`` writes the engine to the path that it is given and returns its record; its files are removed on failure.
    Where ``cache`` cannot be written to, what it has is linked, and what it lacks is built into ``own``.
    """
    entry = Entry(cache / key)
    if not is_writable(cache):
        if entry.is_whole():
            print(f"taken from the cache: {entry.folder}")
            return _link(engine, entry)
        print(f"{cache} cannot be written to: building into {own}")
        entry = Entry(own / key)
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    with entry.held():
        if entry.is_whole():
            print(f"taken from the cache: {entry.folder}")
        else:
            remove_abandoned_parts(entry.folder.parent, key)
            _build_entry(entry.folder, engine.name, build)
        entry.add_user(Path.cwd())
        return _link(engine, entry)


def _link(engine: Path, entry: Entry) -> EngineRecord:
    record, cached = entry.record, entry.engine
    if record is None or cached is None:
        raise RecordError(f"{entry.folder} lost its engine while it was linked", "run the same command again")
    link_relatively(engine, cached)
    record.write(engine.with_name(f"{engine.name}.json"))
    return record


def _build_entry(folder: Path, name: str, build: Callable[[Path], EngineRecord]) -> None:
    temporary = temporary_name(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        record = build(temporary / name)
        stamped = record.model_copy(update={"modified": int(time.time())})
        stamp(temporary / name, stamped)
        stamped.write(temporary / f"{name}.json")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def entries(cache: Path) -> list[Entry]:
    """Return the engines in a cache."""
    return [Entry(path) for path in sorted(cache.glob("[0-9a-f]*")) if path.is_dir()]


def register_links(folder: Path) -> None:
    """Note in the caches which engines ``folder`` links: one that was moved or copied is known again."""
    for link in (folder / "engines/store").rglob("*.engine"):
        entry = Entry(link.resolve().parent)
        if link.is_symlink() and entry.record is not None and is_writable(entry.folder):
            entry.add_user(folder)
