"""Write files that are whole or absent: digests, temporary names and renames.

Every output of this project is written to a temporary file in its folder, ``.NAME.OWNER.part``, and renamed. The owner,
a process of a machine, distinguishes an abandoned temporary file from one that is being written, also on a file system
that several machines and containers share. Independent of the content of files.
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
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import OutputError

_CHUNK = 1 << 22


def sha256_of(*paths: Path) -> str:
    """Return the hex SHA-256 of the bytes of one file, or of several in this order; links are followed."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def stamp_of(path: Path) -> list[int]:
    """Return a file's size in bytes and modification time in nanoseconds, which change when it is written."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def digest_of(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class ProcessState(Enum):
    """Whether a process runs, as far as can be seen from here."""

    RUNNING = "running"
    GONE = "gone"
    ELSEWHERE = "elsewhere"
    """On another machine or in another container, where it may or may not run."""


@dataclass(frozen=True)
class Owner:
    """A process, identified for everyone who shares its files.

    Process numbers alone repeat on other machines, after a restart, and in other containers.
    """

    host: str
    boot: str
    namespace: str
    pid: int

    def __str__(self) -> str:
        return f"{self.host}-{self.boot}-{self.namespace}-{self.pid}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner with that ``str``; None for any other text."""
        fields = text.split("-")
        if len(fields) != 4 or not fields[3].isdigit():
            return None
        host, boot, namespace, pid = fields
        return cls(host, boot, namespace, int(pid))

    def state(self) -> ProcessState:
        """Return whether the process runs."""
        here = this_process()
        if self.host == here.host and self.boot != here.boot:
            return ProcessState.GONE
        if (self.host, self.namespace) != (here.host, here.namespace):
            return ProcessState.ELSEWHERE
        return ProcessState.RUNNING if process_is_alive(self.pid) else ProcessState.GONE


def this_process() -> Owner:
    """Return the process that runs this."""
    return Owner(*_this_machine(), os.getpid())


@cache
def _this_machine() -> tuple[str, str, str]:
    """Return host, start and process namespace; the latter two are ``0`` outside of Linux."""
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
    """Return the temporary path that this process writes ``path`` under."""
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
    """Return whether a process of that number runs here (POSIX; on Windows every process counts as alive)."""
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
    """Return whether files can be made in ``folder``, which need not exist yet."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    return os.access(existing, os.W_OK | os.X_OK)


def check_writable(path: Path) -> None:
    """Raise :class:`OutputError` where ``path`` cannot be written, before work whose result would be lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary_name(path).touch()
        temporary_name(path).unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", "choose another --output") from None


def parts_in(folder: Path, name: str = "*") -> Iterator[tuple[Path, Owner]]:
    """Yield the temporary files and folders in ``folder``, of the output ``name`` or of all, and the owner of each."""
    for path in folder.glob(f".{name}.*.part"):
        owner = Owner.parse(path.name.rsplit(".", 2)[1])
        if owner is not None:
            yield path, owner


def remove_abandoned_parts(folder: Path, name: str = "*") -> list[Path]:
    """Remove the temporary files and folders in ``folder`` whose process is gone, and return them.

    ``name`` limits this to one output. Those that another machine may be writing stay.
    """
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
    with written_whole(link) as temporary:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target.absolute(), link.parent.absolute()))


def without_folders(text: str) -> str:
    """Return a message in which every absolute path is shortened to its last name, so that it can be shared."""
    return re.sub(r"(?<![\w./:])[~/][^\s:,;'\")]*/", "", text)
