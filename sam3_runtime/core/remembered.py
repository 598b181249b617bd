"""Remember facts about files between processes, by path, size and modification time. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sam3_runtime.core.files import stamp_of, write_atomically


class Remembered:
    """Facts about files, stored in the JSON file ``path``; in memory alone without a path.

    ``names`` holds further values by name. A file that is damaged or was written for another ``version`` counts as
    empty, and a folder that cannot be written to is skipped.
    """

    def __init__(self, path: Path | None = None, version: Any = None) -> None:
        self._path, self._version, self._changed = path, version, False
        self._files: dict[str, list[Any]] = {}
        self.names: dict[str, str] = {}
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            stored = json.loads(path.read_bytes()) if path else {}
            if stored.get("version") == version:
                self._files, self.names = dict(stored["files"]), dict(stored["named"])

    def fact(self, path: Path, find: Callable[[Path], Any]) -> Any:
        """Return ``find(path)``, a JSON value, which is computed again only where the file changed.

        Raises :class:`OSError` where the file cannot be read.
        """
        stamp = stamp_of(path)
        known = self._files.get(str(path))
        if known is None or known[:2] != stamp:
            self._files[str(path)] = known = [*stamp, find(path)]
            self._changed = True
        return known[2]

    def name(self, name: str, value: str) -> None:
        """Store ``value`` under ``name``."""
        self._changed |= self.names.get(name) != value
        self.names[name] = value

    def save(self) -> None:
        """Write the file where anything changed."""
        if self._path and self._changed:
            content = {"version": self._version, "files": self._files, "named": self.names}
            with suppress(OSError):
                write_atomically(self._path, json.dumps(content).encode())
            self._changed = False
