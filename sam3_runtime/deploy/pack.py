"""Pack a variant into one archive for another machine, with the reference and the weights' notice, and unpack it.

    b8_q50_r672/  *.engine, *.engine.json, config.json, verify.json, reference.safetensors, NOTICE, assets such as
                  tokenizer.json, and accuracy.safetensors where there is one

The unpacked folder is one that :func:`sam3_runtime.load` opens. Needs no backend and no array library; runs on Windows
too.
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
from sam3_runtime.deploy.configure import check_agreement, read_records
from sam3_runtime.plan.paths import reference_file
from sam3_runtime.records.integrity import check_engines
from sam3_runtime.records.records import VariantConfig

REFERENCE = "reference.safetensors"
ACCURACY = "accuracy.safetensors"


class ArchiveError(Sam3Error):
    """An archive is damaged, or contains files that it must not."""


def reference_path(directory: Path, resolution: int) -> Path:
    """Return the reference of a variant: beside its engines where it was unpacked, else in its work folder."""
    packed = directory / REFERENCE
    return packed if packed.is_file() else directory / ".." / ".." / reference_file(resolution)


def accuracy_path(directory: Path, resolution: int) -> Path | None:
    """Return likewise the reference's accuracy on a data set; None where there is none."""
    paths = (directory / ACCURACY, directory / ".." / ".." / reference_file(resolution, accuracy=True))
    return next((path for path in paths if path.is_file()), None)


def _members(directory: Path, config: VariantConfig) -> Iterator[tuple[str, Path]]:
    """Yield the name and source of each file of the archive."""
    engines = [f"{part}.{ending}" for part in config.spec.parts for ending in ("engine", "engine.json")]
    verdict = ["verify.json"] if (directory / "verify.json").is_file() else []
    for name in (*engines, "config.json", *config.spec.assets, *verdict):
        yield name, directory / name
    reference = reference_path(directory, config.resolution)
    if not reference.is_file():
        raise RecordError(
            f"{reference} is missing, which the other machine needs for verification",
            f"run snakemake {reference_file(config.resolution)}",
        )
    yield REFERENCE, reference
    accuracy = accuracy_path(directory, config.resolution)
    if accuracy:
        yield ACCURACY, accuracy


def pack(directory: Path, archive: Path) -> int:
    """Write ``archive`` (a plain tar: engines do not compress) and return its size in bytes.

    Every engine's digest is checked. Raises :class:`RecordError` for a variant that is not complete and
    :class:`OutputError` where the archive cannot be written.
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
            notice = config.spec.archive_notice.encode()
            member = tarfile.TarInfo(f"{config.variant}/NOTICE")
            member.size = len(notice)
            tar.addfile(member, io.BytesIO(notice))
    except OSError as error:
        raise OutputError(
            f"{archive} cannot be written: {error.strerror}", "choose a disk with more free space"
        ) from None
    return archive.stat().st_size


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def unpack(archive: Path, parent: Path) -> Path:
    """Unpack into ``parent`` and return the variant's folder, which appears whole or not at all.

    Raises :class:`ArchiveError` for a damaged archive, or one with a path outside its one folder, a link or a device,
    and :class:`OutputError` where ``parent`` cannot be written.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            name = _only_folder(archive, members)
            target = parent / name
            if target.exists():
                raise ArchiveError(f"{target} already exists", "remove it, or unpack elsewhere")
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
        raise ArchiveError(f"{archive} is damaged or not an archive: {error}", "copy it again") from None
    except OSError as error:
        raise OutputError(
            f"{archive} cannot be unpacked to {parent}: {error.strerror}", "choose a disk with more free space"
        ) from None
    return target


def _check_whole(archive: Path, directory: Path) -> None:
    """Raise :class:`ArchiveError` for an incomplete variant: a cut between two members is no error of the archive."""
    try:
        records = read_records(directory)
        check_agreement(directory, VariantConfig.read(directory / "config.json"), records)
        check_engines(directory, records, "always")
    except RecordError as error:
        message = str(error).partition("\n")[0].replace(str(directory), directory.name)
        raise ArchiveError(f"{archive} is damaged: {message}", "copy it again") from None


def _only_folder(archive: Path, members: list[tarfile.TarInfo]) -> str:
    """Return the one folder that directly contains all members; raises :class:`ArchiveError`."""
    folders = set()
    for member in members:
        parts = member.name.replace("\\", "/").split("/")
        if len(parts) != 2 or ".." in parts or "." in parts or "" in parts or not member.isreg() or ":" in member.name:
            raise ArchiveError(
                f"{archive} contains {member.name!r}, which is not a plain file inside the variant's folder",
                "nothing was unpacked; do not trust this archive: pack the variant again with sam3-runtime pack",
            )
        folders.add(parts[0])
    if len(folders) != 1:
        raise ArchiveError(
            f"{archive} contains {len(folders)} folders, not one variant", "pack it with sam3-runtime pack"
        )
    return folders.pop()
