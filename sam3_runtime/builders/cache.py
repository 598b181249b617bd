"""The engine cache: engines by what they are made of.

Snakemake deletes a job's outputs before the job starts, so an engine that lived only there would be lost to a rebuild
that fails. Engines live here instead, each in a folder named after the digest of everything that it depends on; the
store holds links. Going back to old settings links what is there. Several work folders may share one cache. Knows
nothing of backends.

    <cache>/<key>/<name>.engine, <name>.engine.json      one engine and its record
    <cache>/<key>/users                                  the work folders that linked it, a line each
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sam3_runtime.config import EngineRecord
from sam3_runtime.errors import RecordError
from sam3_runtime.files import link_relatively, remove_abandoned_parts, sha256_of, write_atomically


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
        return engine is not None and record is not None and sha256_of(engine) == record.sha256

    def users(self) -> list[Path]:
        """The work folders that still link this engine."""
        users = self.folder / "users"
        listed = users.read_text().splitlines() if users.is_file() else []
        return [Path(line) for line in dict.fromkeys(listed) if line and self._is_linked_from(Path(line))]

    def _is_linked_from(self, folder: Path) -> bool:
        engine = self.engine
        if engine is None:
            return False
        store = folder / "engines" / "store"
        return any(link.is_symlink() and link.resolve() == engine.resolve() for link in store.rglob(engine.name))

    def add_user(self, folder: Path) -> None:
        users = self.folder / "users"
        listed = users.read_text().splitlines() if users.is_file() else []
        line = str(folder.absolute())
        if line not in listed:
            write_atomically(users, "\n".join([*listed, line, ""]).encode())


def provide(engine: Path, key: str, cache: Path, build: Callable[[Path], EngineRecord]) -> EngineRecord:
    """Make ``engine`` a link to the cached engine of that key, building it only where it is not there whole.

    ``build`` writes the engine to the path that it is given and returns its record; what it leaves behind on failure
    is removed. The record is copied beside the link.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / key
    with FileLock(cache / f".{key}.lock"):
        entry = Entry(folder)
        if entry.is_whole():
            print(f"taken from the cache: {folder}")
        else:
            remove_abandoned_parts(cache)
            _build_entry(folder, engine.name, build)
        record, cached = entry.record, entry.engine
        if record is None or cached is None:
            raise RecordError(f"{folder} lost its engine while it was linked", "run the same command again")
        entry.add_user(Path.cwd())
        link_relatively(engine, cached)
        record.write(engine.with_name(engine.name + ".json"))
    return record


def _build_entry(folder: Path, name: str, build: Callable[[Path], EngineRecord]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        record = build(temporary / name)
        record.write(temporary / f"{name}.json")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def entries(cache: Path) -> list[Entry]:
    return [Entry(path) for path in sorted(cache.glob("[0-9a-f]*")) if path.is_dir()]
