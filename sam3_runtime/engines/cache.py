"""The engine cache: engines by what they are made of.

Snakemake deletes a job's outputs before the job starts, so an engine that lived only there would be lost to a rebuild
that fails. Engines live here instead, each in a folder named after the digest of everything that it depends on; the
store holds links. Going back to old settings links what is there. Several work folders may share one cache, also one
that they cannot write to. Knows nothing of backends.

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
from sam3_runtime.core.integrity import difference, stamp
from sam3_runtime.plan.planning import DEFAULT_CACHE
from sam3_runtime.records.records import EngineRecord


class UserState(Enum):
    USES = "links it"
    LEFT = "is there and links it no longer"
    GONE = "is not there any more: deleted, or moved"


@dataclass(frozen=True)
class User:
    """A work folder that linked an engine, and what is at that place now."""

    folder: Path
    state: UserState


@dataclass(frozen=True)
class Entry:
    """One cached engine."""

    folder: Path

    @property
    def engine(self) -> Path | None:
        return next(self.folder.glob("*.engine"), None)

    @property
    def record(self) -> EngineRecord | None:
        engine = self.engine
        if engine is None:
            return None
        try:
            return EngineRecord.read(engine.with_name(engine.name + ".json"))
        except RecordError:
            return None

    def is_whole(self) -> bool:
        """Whether the engine is there and its bytes are those that its record says."""
        engine, record = self.engine, self.record
        return engine is not None and record is not None and difference(engine, record, "always") is None

    @contextmanager
    def held(self, timeout: float = -1) -> Iterator[bool]:
        """Hold this entry against other processes; False where one has it and ``timeout`` (seconds) is over."""
        lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"))
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def users(self) -> list[User]:
        """The work folders that linked this engine."""
        return [User(Path(path), self._state(Path(path), inode)) for path, inode in self._listed().items()]

    def _state(self, folder: Path, inode: str) -> UserState:
        engine, store = self.engine, folder / "engines/store"
        if engine and any(link.resolve() == engine.resolve() for link in store.rglob(engine.name)):
            return UserState.USES
        # Another folder at that place says nothing about the one that was there: it may have been moved.
        return UserState.LEFT if inode in (_inode(folder), "") and folder.is_dir() else UserState.GONE

    def _listed(self) -> dict[str, str]:
        """Paths of work folders and their inodes, which a folder keeps when it is moved; former versions wrote none."""
        users = self.folder / "users"
        lines = users.read_text().splitlines() if users.is_file() else []
        split = (("", line) if line.startswith("/") else tuple(line.split(" ", 1)) for line in lines if line)
        return {path: inode for inode, path in split}

    def add_user(self, folder: Path) -> None:
        """Note that ``folder`` links this engine, and forget the place that it was moved from."""
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


def provide(
    engine: Path, key: str, cache: Path, build: Callable[[Path], EngineRecord], own: Path = Path(DEFAULT_CACHE)
) -> EngineRecord:
    """Make ``engine`` a link to the cached engine of that key, building it only where it is not there whole.

    ``build`` writes the engine to the path that it is given and returns its record; what it leaves behind on failure
    is removed. The record is copied beside the link. Where ``cache`` cannot be written to, what it has is linked, and
    what it lacks is built into ``own``.
    """
    if not is_writable(cache):
        entry = Entry(cache / key)
        if entry.is_whole():
            print(f"taken from the cache: {entry.folder}")
            return _link(engine, entry)
        print(f"{cache} cannot be written to: building into {own}")
        cache = own
    cache.mkdir(parents=True, exist_ok=True)
    entry = Entry(cache / key)
    with entry.held():
        if entry.is_whole():
            print(f"taken from the cache: {entry.folder}")
        else:
            remove_abandoned_parts(cache, key)
            _build_entry(entry.folder, engine.name, build)
        entry.add_user(Path.cwd())
        return _link(engine, entry)


def _link(engine: Path, entry: Entry) -> EngineRecord:
    record, cached = entry.record, entry.engine
    if record is None or cached is None:
        raise RecordError(f"{entry.folder} lost its engine while it was linked", "run the same command again")
    link_relatively(engine, cached)
    record.write(engine.with_name(engine.name + ".json"))
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
    return [Entry(path) for path in sorted(cache.glob("[0-9a-f]*")) if path.is_dir()]


def register_links(folder: Path) -> None:
    """Note in the caches that ``folder`` links what it links: a folder that was moved or copied is known again."""
    for link in (folder / "engines/store").rglob("*.engine"):
        entry = Entry(link.resolve().parent)
        if link.is_symlink() and entry.record is not None and is_writable(entry.folder):
            entry.add_user(folder)
