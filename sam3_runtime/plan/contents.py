"""Compute digests of the images, videos and checkpoints outside a work folder that it depends on.

Rules depend on their content, wherever they are: a folder may move, and a file that was replaced in place is noticed.
Digests are remembered by size and modification time, so that planning reads a file once. Where a file cannot be found,
as on a machine that only builds from what another exported, the remembered digest counts. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.files import digest_of, sha256_of
from sam3_runtime.core.remembered import Remembered
from sam3_runtime.core.source_files import Spec, expand_images, is_video, locate
from sam3_runtime.records.checkpoint_files import checkpoint_digest, shards_of

MEMORY = Path(".snakemake/sam3-contents.json")
MISSING = "missing"


class Contents:
    """Digests of what paths name, relative to the current folder; ``folder`` is the work folder."""

    def __init__(self, folder: Path = Path()) -> None:
        self._remembered = Remembered(folder / MEMORY)

    def of_sources(self, specs: Iterable[Spec]) -> str:
        """Return the digest of the images and videos that ``specs`` name: their names and bytes, in order."""
        return digest_of([self._digest(str(spec), partial(_files_of, spec)) for spec in specs])

    def of_annotated(self, annotations: Path, images: Path | None) -> str:
        """Return the digest of the images of a data set in COCO's format; a missing image counts as missing."""

        def named() -> dict[str, Path]:
            content = json.loads(annotations.read_bytes())
            names = sorted(str(image["file_name"]) for image in content["images"])
            return {name: (images or annotations.parent) / name for name in names}

        return self._digest(str(annotations), named)

    def of_checkpoint(self, folder: Path) -> str | None:
        """Return the digest of a local checkpoint, as in its lock; None where the checkpoint is not complete."""
        try:
            digests = {name: self._of_file(folder / name) for name in ("config.json", *shards_of(folder))}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # of a damaged index
            return None
        self._remembered.save()
        return None if MISSING in digests.values() else checkpoint_digest(digests.pop("config.json"), digests)

    def _digest(self, name: str, files: Callable[[], Mapping[str, Path]]) -> str:
        """Return the digest of ``files``; the one remembered for ``name`` where they cannot be listed."""
        try:
            found = [(label, self._of_file(path)) for label, path in files().items()]
        except (SourceError, OSError, ValueError, TypeError, KeyError):
            return self._remembered.names.get(name, MISSING)
        self._remembered.name(name, digest_of(found))
        self._remembered.save()
        return self._remembered.names[name]

    def _of_file(self, path: Path) -> str:
        try:
            return str(self._remembered.fact(path, sha256_of))
        except OSError:
            return MISSING


def _files_of(spec: Spec) -> dict[str, Path]:
    if is_video(spec):
        return {locate(spec).name: locate(spec)}
    return {image.name: image.path for image in expand_images([spec], lambda _: None)}
