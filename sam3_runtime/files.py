"""Files that are whole or absent: digests, temporary names and renames.

Every output of this project is written to a temporary name beside its place, ``.NAME.PID.part``, and renamed. The
process number tells an abandoned temporary file from one that is being written. Knows nothing of what is in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22


def sha256_of(*paths: Path) -> str:
    """Hex SHA-256 of one file's bytes, or of several's in the order given; links are followed."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` when the block succeeds, remove it when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, never half."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def process_is_alive(pid: int) -> bool:
    """Whether a process of that number runs here (POSIX; on Windows every process counts as alive)."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove_abandoned_parts(folder: Path) -> list[Path]:
    """Remove the temporary files and folders in ``folder`` whose process is gone; return what was removed."""
    removed = []
    for path in folder.glob(".*.part"):
        pid = path.name.rsplit(".", 2)[1]
        if pid.isdigit() and not process_is_alive(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def link_relatively(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, replacing what was there in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target.absolute(), link.parent.absolute()))
    os.replace(temporary, link)


def without_folders(text: str) -> str:
    """A message for people in which every absolute path is its last name alone: what is shared names no folder."""
    return re.sub(r"(?<![\w./:])[~/][^\s:,;'\")]*/", "", text)
