"""Writes a variant's ``config.json``, once its engines are seen to belong together.

Pure: reads records, opens no engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.hints import command_for, rebuild_hint, work_folder_of
from sam3_runtime.records.records import CheckpointLock, EngineRecord, Preprocessing, VariantConfig


def read_config(directory: Path) -> VariantConfig:
    """What the variant in ``directory`` is; :class:`RecordError` where it is no variant's folder."""
    if not directory.is_dir():
        raise RecordError(f"{directory} is no folder", "name a variant's folder, such as engines/b8_q50_r672")
    return VariantConfig.read(directory / "config.json")


def read_records(directory: Path, parts: Iterable[str] | None = None) -> dict[str, EngineRecord]:
    """The records of all parts in a variant's folder, or of some of them, by part."""
    if parts is None:
        parts = VariantConfig.read(directory / "config.json").spec.parts
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
    axes = {**config.axes, "quantize": config.quantize}
    for part, record in records.items():
        expected: dict[str, Any] = {
            "part": part,
            "checkpoint_digest": config.checkpoint_digest,
            "backend": config.backend,
            "dims": config.dims,
        }
        expected |= {"family": config.family} | {axis: axes[axis] for axis in config.spec.parts[part].depends_on}
        for field, wanted in expected.items():
            got = record.axes[field] if field in record.axes else getattr(record, field)
            if got != wanted:
                raise RecordError(
                    f"{directory / part}.engine is not of {config.variant}: its {field} is {got}, not {wanted}",
                    rebuild_hint(directory / f"{part}.engine"),
                )


def configure(directory: Path, chosen: Mapping[str, Any], lock: CheckpointLock) -> VariantConfig:
    """The sealed configuration of the variant in ``directory``.

    ``chosen`` has the variant's name, axes, backend and the checkpoint's name as ``variants.yaml`` writes it.
    """
    spec = lock.spec
    config = VariantConfig(
        family=lock.family,
        variant=chosen["variant"],
        axes={axis: chosen[axis] for axis in spec.keys},
        quantize=None if chosen["quantize"] == "none" else chosen["quantize"],
        backend=chosen["backend"],
        dims=lock.dims,
        checkpoint=chosen["checkpoint"],
        revision=lock.revision,
        commit=lock.commit,
        checkpoint_digest=lock.digest,
        preprocessing=lock.preprocessing or Preprocessing(),
        assets={asset: sha256_of(directory / asset) for asset in spec.assets},
        notice=spec.notice,
    ).sealed()
    check_agreement(directory, config, read_records(directory, spec.parts))
    return config
