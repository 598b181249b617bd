"""Writes a variant's ``config.json``, once its four engines are seen to belong together.

Pure: reads records, opens no engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.hints import command_for, rebuild_hint, work_folder_of
from sam3_runtime.families.sam3.contract import PART_NAMES, PARTS
from sam3_runtime.records.records import CheckpointLock, EngineRecord, VariantConfig


def read_records(directory: Path, parts: Iterable[str] = PART_NAMES) -> dict[str, EngineRecord]:
    """The records of the four parts in a variant's folder, or of some of them, by part."""
    return {part: EngineRecord.read(directory / f"{part}.engine.json") for part in parts}


def check_name(directory: Path, config: VariantConfig) -> None:
    """Refuse a variant under another's name in its work folder, where rules go by the name. A copy elsewhere may be
    called anything, and so may a link."""
    name = directory.resolve().name
    folder = work_folder_of(directory)
    if folder is not None and directory.resolve().parent == folder / "engines" and name != config.variant:
        raise RecordError(
            f"{directory} holds {config.variant}, by its config.json: the folder was renamed",
            f"{command_for(directory / 'config.json')} puts {name} there again",
        )


def check_agreement(directory: Path, config: VariantConfig, records: Mapping[str, EngineRecord]) -> None:
    """Refuse engines of another checkpoint, backend or variant: each alone may be sound, together they are not.

    Raises :class:`RecordError` naming the engine, what it says, what was expected, and the command that rebuilds it.
    """
    axes = {
        "batch": config.batch,
        "resolution": config.resolution,
        "queries": config.queries,
        "quantize": config.quantize,
    }
    for part, record in records.items():
        expected: dict[str, Any] = {
            "part": part,
            "checkpoint_digest": config.checkpoint_digest,
            "backend": config.backend,
            "dims": config.dims,
        }
        expected |= {axis: axes[axis] for axis in PARTS[part].depends_on}  # type: ignore[index]
        for field, wanted in expected.items():
            got = getattr(record, field)
            if got != wanted:
                raise RecordError(
                    f"{directory / part}.engine is not of {config.variant}: its {field} is {got}, not {wanted}",
                    rebuild_hint(directory / f"{part}.engine"),
                )


def configure(directory: Path, chosen: Mapping[str, Any], lock: CheckpointLock) -> VariantConfig:
    """The sealed configuration of the variant in ``directory``.

    ``chosen`` has the variant's name, axes, backend and the checkpoint's name as ``variants.yaml`` writes it.
    """
    config = VariantConfig(
        variant=chosen["variant"],
        batch=chosen["batch"],
        queries=chosen["queries"],
        resolution=chosen["resolution"],
        quantize=None if chosen["quantize"] == "none" else chosen["quantize"],
        backend=chosen["backend"],
        dims=lock.dims,
        checkpoint=chosen["checkpoint"],
        revision=lock.revision,
        commit=lock.commit,
        checkpoint_digest=lock.digest,
        tokenizer_sha256=sha256_of(directory / "tokenizer.json"),
    ).sealed()
    check_agreement(directory, config, read_records(directory))
    return config
