"""Takes a variant to another machine: one archive, links followed, with the reference and the weights' notice.

    b8_q50_r672/  *.engine, *.engine.json, config.json, verify.json, reference.safetensors, NOTICE, what running needs
                 (tokenizer.json),
                 accuracy.safetensors where there is one

What is unpacked is a folder that :func:`sam3_runtime.load` takes. Knows no backend and no array library; runs on
Windows too.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from sam3_runtime.core.errors import OutputError, RecordError, Sam3Error
from sam3_runtime.core.files import temporary_name, written_whole
from sam3_runtime.core.integrity import check_engines
from sam3_runtime.deploy.configure import check_agreement, read_records
from sam3_runtime.plan.paths import reference_file
from sam3_runtime.records.records import VariantConfig

REFERENCE = "reference.safetensors"
ACCURACY = "accuracy.safetensors"


class ArchiveError(Sam3Error):
    """An archive is damaged, or holds what it must not."""


def reference_path(directory: Path, resolution: int) -> Path:
    """The reference of a variant: beside its engines where it was unpacked, else in its work folder."""
    packed = directory / REFERENCE
    return packed if packed.is_file() else directory / ".." / ".." / reference_file(resolution)


def accuracy_path(directory: Path, resolution: int) -> Path | None:
    """Likewise of the reference's accuracy on a data set; None where the work folder has none."""
    places = (directory / ACCURACY, directory / ".." / ".." / reference_file(resolution, accuracy=True))
    return next((place for place in places if place.is_file()), None)


def _members(directory: Path, config: VariantConfig) -> Iterator[tuple[str, Path]]:
    for part in config.spec.parts:
        yield f"{part}.engine", directory / f"{part}.engine"
        yield f"{part}.engine.json", directory / f"{part}.engine.json"
    for name in ("config.json", *config.spec.assets):
        yield name, directory / name
    if (directory / "verify.json").is_file():
        yield "verify.json", directory / "verify.json"
    reference = reference_path(directory, config.resolution)
    if not reference.is_file():
        raise RecordError(
            f"{reference} is missing, which the other machine verifies against",
            f"run snakemake {reference_file(config.resolution)}",
        )
    yield REFERENCE, reference
    accuracy = accuracy_path(directory, config.resolution)
    if accuracy:
        yield ACCURACY, accuracy


def pack(directory: Path, archive: Path) -> int:
    """Write ``archive`` (a plain tar: engines do not compress) and return its size in bytes.

    Every engine's digest is checked on the way. Raises :class:`RecordError` for a variant that is not whole.
    """
    config = VariantConfig.read(directory / "config.json")
    records = read_records(directory, config.spec.parts)
    check_agreement(directory, config, records)
    check_engines(directory, records, "always")
    members = list(_members(directory, config))
    try:
        with written_whole(archive) as temporary, tarfile.open(temporary, "w", dereference=True) as tar:
            for name, path in members:
                tar.add(path.resolve(), arcname=f"{config.variant}/{name}", filter=_anonymous)
            _add_text(tar, f"{config.variant}/NOTICE", config.spec.archive_notice)
    except OSError as error:
        raise OutputError(f"{archive} cannot be written: {error.strerror}", "choose a disk with more room") from None
    return archive.stat().st_size


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def unpack(archive: Path, parent: Path) -> Path:
    """Unpack into ``parent`` and return the variant's folder, which appears whole or not at all.

    Raises :class:`ArchiveError` for a damaged archive, or one with a path outside its one folder, a link or a device.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            name = _only_folder(archive, members)
            target = parent / name
            if target.exists():
                raise ArchiveError(f"{target} is there already", "remove it, or unpack elsewhere")
            temporary = temporary_name(target)
            try:
                # Plain files in one folder by now; the filter, which older Pythons lack, also resets their permissions.
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                tar.extractall(temporary)
                _check_whole(archive, temporary / name)
                os.replace(temporary / name, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except FileNotFoundError:
        raise ArchiveError(f"{archive} is missing") from None
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{archive} is damaged or no archive: {error}", "copy it again") from None
    except OSError as error:
        raise OutputError(
            f"{archive} cannot be unpacked to {parent}: {error.strerror}", "choose a disk with room"
        ) from None
    return target


def _check_whole(archive: Path, directory: Path) -> None:
    """An archive that was cut between two members unpacks without an error; its content tells."""
    try:
        records = read_records(directory)
        check_agreement(directory, VariantConfig.read(directory / "config.json"), records)
        check_engines(directory, records, "always")
    except RecordError as error:
        message = str(error).partition("\n")[0].replace(str(directory), directory.name)
        raise ArchiveError(f"{archive} is damaged: {message}", "copy it again") from None


def _only_folder(archive: Path, members: list[tarfile.TarInfo]) -> str:
    """The one folder that all members lie in, directly."""
    folders = set()
    for member in members:
        parts = member.name.replace("\\", "/").split("/")
        if len(parts) != 2 or ".." in parts or "." in parts or "" in parts or not member.isreg() or ":" in member.name:
            raise ArchiveError(
                f"{archive} holds {member.name!r}, which is no plain file inside the variant's folder",
                "nothing was unpacked; do not trust this archive: pack the variant again with sam3-runtime pack",
            )
        folders.add(parts[0])
    if len(folders) != 1:
        raise ArchiveError(f"{archive} holds {len(folders)} folders, not one variant", "pack it with sam3-runtime pack")
    return folders.pop()
