"""Files that are whole or absent: digests, temporary names and renames.

Every output of this project is written to a temporary name beside its place, ``.NAME.OWNER.part``, and renamed. The
owner, a process of a machine, tells an abandoned temporary file from one that is being written, on a file system that
several machines and containers share too. Knows nothing of what is in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import OutputError

_CHUNK = 1 << 22


def sha256_of(*paths: Path) -> str:
    """Hex SHA-256 of one file's bytes, or of several's in the order given; links are followed."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def stamp_of(path: Path) -> list[int]:
    """Size in bytes and time stamp in nanoseconds, by which what was found of a file is remembered."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def digest_of(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class ProcessState(Enum):
    RUNNING = "running"
    GONE = "gone"
    ELSEWHERE = "elsewhere"
    """On another machine or in another container: whether it runs cannot be seen from here."""


@dataclass(frozen=True)
class Owner:
    """A process, as whoever shares its files can tell it from others: process numbers are given out anew by each
    machine, at each start of it, and in each container."""

    host: str
    boot: str
    namespace: str
    pid: int

    def __str__(self) -> str:
        return f"{self.host}-{self.boot}-{self.namespace}-{self.pid}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The inverse of ``str``; a number alone, as former versions wrote it, is a process of this machine."""
        machine, _, pid = text.rpartition("-")
        if not pid.isdigit() or machine.count("-") != (2 if machine else 0):
            return None
        if not machine:
            return replace(this_process(), pid=int(pid))
        host, boot, namespace = machine.split("-")
        return cls(host, boot, namespace, int(pid))

    def state(self) -> ProcessState:
        here = this_process()
        if self.host != here.host:
            return ProcessState.ELSEWHERE
        if self.boot != here.boot:
            return ProcessState.GONE
        if self.namespace != here.namespace:
            return ProcessState.ELSEWHERE
        return ProcessState.RUNNING if process_is_alive(self.pid) else ProcessState.GONE


def this_process() -> Owner:
    return Owner(*_this_machine(), os.getpid())


@cache
def _this_machine() -> tuple[str, str, str]:
    """Host, start and process namespace; what only Linux tells is ``0`` elsewhere."""
    identity = hashlib.sha256(_first_line("/etc/machine-id").encode()).hexdigest()[:4]
    host = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:24]
    try:
        namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        namespace = "0"
    return f"{host}_{identity}", _first_line("/proc/sys/kernel/random/boot_id")[:8] or "0", namespace


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{this_process()}.part")


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


def is_writable(folder: Path) -> bool:
    """Whether files can be made in ``folder``, which need not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    return os.access(there, os.W_OK | os.X_OK)


def check_writable(path: Path) -> None:
    """:class:`OutputError` where ``path`` cannot be written: to be said before the work, whose result would be lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary_name(path).touch()
        temporary_name(path).unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", "choose another --output") from None


def parts_in(folder: Path, name: str = "*") -> Iterator[tuple[Path, Owner]]:
    """The temporary files and folders in ``folder``, of the output ``name`` or of all, and who writes each."""
    for path in folder.glob(f".{name}.*.part"):
        owner = Owner.parse(path.name.rsplit(".", 2)[1])
        if owner is not None:
            yield path, owner


def remove_abandoned_parts(folder: Path, name: str = "*") -> list[Path]:
    """Remove the temporary files and folders in ``folder``, of the output ``name`` or of all, whose process is gone;
    return what was removed. What may be written on another machine stays."""
    removed = []
    for path, owner in parts_in(folder, name):
        if owner.state() is ProcessState.GONE:
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
