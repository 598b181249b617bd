"""What is in files that a work folder depends on and that are not its own: images, videos, checkpoints.

Rules depend on their content, wherever they are: a folder may move, and a file that was replaced in place is noticed.
Digests are remembered by size and time stamp, so that planning reads a file once. Where a file is not to be found, as
on a machine that only builds from what another exported, what is remembered stands. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.files import digest_of, sha256_of, stamp_of, write_atomically
from sam3_runtime.media.source_files import Spec, expand_images, is_video, locate
from sam3_runtime.records.checkpoint_files import checkpoint_digest, shards_of

MEMORY = Path(".snakemake/sam3-contents.json")
MISSING = "missing"


class Contents:
    """Digests of what paths name as seen from the work folder ``folder``, which is the current one."""

    def __init__(self, folder: Path = Path()) -> None:
        self._path = folder / MEMORY
        self._files: dict[str, list[Any]] = {}
        self._named: dict[str, str] = {}
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(self._path.read_bytes())
            self._files, self._named = dict(known["files"]), dict(known["named"])

    def of_sources(self, specs: Iterable[Spec]) -> str:
        """The digest of the images and videos that ``specs`` name: their names and bytes, in order."""
        return digest_of([self._remembered(str(spec), partial(_files_of, spec)) for spec in specs])

    def of_annotated(self, annotations: Path, images: Path | None) -> str:
        """The digest of the images of a data set in COCO's format; those that are missing count as such."""

        def named() -> dict[str, Path]:
            content = json.loads(annotations.read_bytes())
            names = sorted(str(image["file_name"]) for image in content["images"])
            return {name: (images or annotations.parent) / name for name in names}

        return self._remembered(str(annotations), named)

    def of_checkpoint(self, folder: Path) -> str | None:
        """The digest of a checkpoint in a local folder, as its lock has it; None where there is no whole one."""
        before = dict(self._files)
        try:
            weights = {name: self._of_file(folder / name) for name in shards_of(folder)}
            return checkpoint_digest(self._of_file(folder / "config.json"), weights)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        finally:
            if self._files != before:
                self._save()

    def _remembered(self, name: str, files: Callable[[], Mapping[str, Path]]) -> str:
        """The digest of ``files``, or, where it is not to be found what they are, the one that ``name`` had."""
        try:
            digest = self._digest(files())
        except (SourceError, OSError, ValueError, TypeError, KeyError):
            return self._named.get(name, MISSING)
        if self._named.get(name) != digest:
            self._named[name] = digest
            self._save()
        return digest

    def _digest(self, files: Mapping[str, Path]) -> str:
        before, found = dict(self._files), {}
        for name, path in files.items():
            try:
                found[name] = self._of_file(path)
            except OSError:
                found[name] = MISSING
        if self._files != before:
            self._save()
        return digest_of(list(found.items()))

    def _of_file(self, path: Path) -> str:
        stamp = stamp_of(path)
        known = self._files.get(str(path))
        if known is None or known[:2] != stamp:
            self._files[str(path)] = known = [*stamp, sha256_of(path)]
        return str(known[2])

    def _save(self) -> None:
        memory = {"files": self._files, "named": self._named}
        with suppress(OSError, ValueError):  # a folder that cannot be written to is read again each time
            write_atomically(self._path, json.dumps(memory).encode())


def _files_of(spec: Spec) -> dict[str, Path]:
    if is_video(spec):
        return {locate(spec).name: locate(spec)}
    return {image.name: image.path for image in expand_images([spec], lambda _: None)}
