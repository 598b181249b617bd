"""Write ``checkpoint.lock`` once, so that a resolution that is added later exports the same weights."""

from __future__ import annotations

from pathlib import Path

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.families import exporter
from sam3_runtime.records.records import CheckpointLock


def lock_once(
    path: Path, checkpoint: str, revision: str | None, location: str, family: str | None = None
) -> CheckpointLock:
    """Lock the checkpoint ``checkpoint`` of a family, loaded from ``location``; an existing lock is not changed.

    Raises :class:`CheckpointError` when the weights differ from those of the lock.
    """
    known = CheckpointLock.read(path) if path.is_file() else None
    found: CheckpointLock = exporter(family, "checkpoint").lock(
        location, known.commit if known and known.commit else revision
    )
    if known and known.digest != found.digest:
        raise CheckpointError(
            f"the weights of {checkpoint} changed since this folder was first built "
            f"({known.digest[:12]} then, {found.digest[:12]} now)",
            "build them in another folder (snakemake --directory FOLDER), or delete checkpoint.lock to start anew",
        )
    if known:
        return known
    locked = found.model_copy(update={"checkpoint": checkpoint, "revision": revision if found.commit else None})
    locked.write(path)
    return locked
