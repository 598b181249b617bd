"""Check whether engines still match their records.

An engine's file has the modification time of its record, so that comparing size and time is enough. Where the time
differs, as after a copy, the digest decides. Pure: the Snakefile and the runtime call this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.core.wording import counted
from sam3_runtime.records.records import EngineRecord

Hashing = Literal["never", "where touched", "always"]


def difference(engine: Path, record: EngineRecord, hashing: Hashing = "where touched") -> str | None:
    """Return how ``engine`` differs from what ``record`` describes, to be read after its name; None where it does not.

    Compares the size, and the SHA-256 where the modification time is not the record's, ``always`` or ``never``. A file
    that is intact gets the modification time back where that is allowed.
    """
    try:
        found = engine.stat()  # follows links, as everything here does
    except FileNotFoundError:
        return "points to a file that is gone" if engine.is_symlink() else "is missing"
    if found.st_size != record.sizes.file:
        kind = "is cut off" if found.st_size < record.sizes.file else "is another file"
        return f"{kind}: it has {counted(found.st_size, 'byte')} instead of {record.sizes.file}"
    touched = record.modified is not None and found.st_mtime != record.modified
    if hashing == "never" or (hashing == "where touched" and not touched):
        return None
    if sha256_of(engine) != record.sha256:
        return "is not the engine that its record describes: their SHA-256 differ"
    if touched:
        stamp(engine, record)
    return None


def check_engines(directory: Path, records: Mapping[str, EngineRecord], hashing: Hashing = "where touched") -> None:
    """Raise :class:`RecordError` unless the engines in a variant's folder are those of ``records``, by part."""
    for part, record in records.items():
        engine = directory / f"{part}.engine"
        what = difference(engine, record, hashing)
        if what:
            raise RecordError(f"{engine} {what}", rebuild_hint(engine))


def stamp(engine: Path, record: EngineRecord) -> None:
    """Set the modification time of an intact file to that of its ``record``, where that is allowed."""
    if record.modified is not None:
        with suppress(OSError):
            os.utime(engine, (record.modified, record.modified))
