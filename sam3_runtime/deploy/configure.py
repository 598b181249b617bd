"""Make a variant's ``config.json``, and check that its engines belong together.

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
    """Return the configuration of the variant in ``directory``; raises :class:`RecordError` for any other folder."""
    if not directory.is_dir():
        raise RecordError(f"{directory} is not a folder", "name a variant's folder, such as engines/b8_q50_r672")
    return VariantConfig.read(directory / "config.json")


def read_records(directory: Path, parts: Iterable[str] | None = None) -> dict[str, EngineRecord]:
    """Return the engine records in a variant's folder by part, by default of all; raises :class:`RecordError`."""
    if parts is None:
        parts = VariantConfig.read(directory / "config.json").spec.parts
    return {part: EngineRecord.read(directory / f"{part}.engine.json") for part in parts}


def check_name(directory: Path, config: VariantConfig) -> None:
    """Raise :class:`RecordError` for a variant under another's name in its work folder, where rules use the name.

    A copy elsewhere may have any name, and so may a link.
    """
    name = directory.resolve().name
    folder = work_folder_of(directory)
    if folder is not None and directory.resolve().parent == folder / "engines" and name != config.variant:
        raise RecordError(
            f"{directory} holds {config.variant}, by its config.json: the folder was renamed",
            f"{command_for(directory / 'config.json')} puts {name} there again",
        )


def check_agreement(directory: Path, config: VariantConfig, records: Mapping[str, EngineRecord]) -> None:
    """Check that the engines are of the configuration's checkpoint, backend and variant.

    Raises :class:`RecordError` with the engine, the field, both values, and the command that rebuilds the engine.
    """
    axes = {**config.axes, "quantize": config.quantize}
    common = {name: getattr(config, name) for name in ("checkpoint_digest", "backend", "dims", "family")}
    for part, record in records.items():
        own = {axis: axes[axis] for axis in config.spec.parts[part].depends_on}
        for field, wanted in {"part": part, **common, **own}.items():
            got = record.axes[field] if field in record.axes else getattr(record, field)
            if got != wanted:
                raise RecordError(
                    f"{directory / part}.engine is not of {config.variant}: its {field} is {got}, not {wanted}",
                    rebuild_hint(directory / f"{part}.engine"),
                )


def configure(directory: Path, chosen: Mapping[str, Any], lock: CheckpointLock) -> VariantConfig:
    """Return the sealed configuration of the variant in ``directory``, whose engines are checked.

    ``chosen`` has the variant's name, axes, backend and checkpoint as in ``variants.yaml``. Raises
    :class:`RecordError`.
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
