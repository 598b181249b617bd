"""Opens an engine of any backend, after everything that can be said about it without loading it was checked.

An engine is a binary program: it is loaded only when its SHA-256 is the one in its record. Backends are imported when
an engine of theirs is opened; a missing library is an error that names the pip extra.
"""

from __future__ import annotations

from pathlib import Path

from sam3_runtime.backends.base import Engine, EngineOptions
from sam3_runtime.config import EngineRecord
from sam3_runtime.errors import EngineError, RecordError
from sam3_runtime.files import sha256_of
from sam3_runtime.variants import Variant

__all__ = ["Engine", "EngineOptions", "check_file", "engine_file", "open_engine", "read_record", "rebuild_hint"]

INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "tensorrt": "pip install 'sam3-runtime[tensorrt]'",
    "tensorrt-rtx": "pip install 'sam3-runtime[rtx]'",
}
"""How the library of each backend is installed."""


def engine_file(directory: Path, part: str) -> Path:
    return directory / f"{part}.engine"


def record_file(directory: Path, part: str) -> Path:
    return directory / f"{part}.engine.json"


def rebuild_hint(path: Path) -> str:
    """The command that makes a file of a variant's directory anew, seen from the work folder."""
    return f"rebuild it: snakemake engines/{path.absolute().parent.name}/{path.name}"


def read_record(directory: Path, part: str) -> EngineRecord:
    """The record of ``part`` in a variant's directory; :class:`RecordError` when it is missing or of another part."""
    path = record_file(directory, part)
    record = EngineRecord.read(path)
    if record.part != part:
        raise RecordError(f"{path} is the record of a {record.part}", rebuild_hint(engine_file(directory, part)))
    return record


def check_file(path: Path, record: EngineRecord, verify_digest: bool = True) -> None:
    """:class:`EngineError` unless ``path`` is the file that ``record`` is about."""
    try:
        size = path.stat().st_size  # follows links, as everything here does
    except FileNotFoundError:
        what = "points to a file that is gone" if path.is_symlink() else "is missing"
        raise EngineError(f"{path} {what}", rebuild_hint(path)) from None
    if size != record.sizes.file:
        kind = "cut off" if size < record.sizes.file else "another file"
        raise EngineError(
            f"{path} is {kind}: it has {size} bytes, and its record says {record.sizes.file}{_owner(path, record)}",
            rebuild_hint(path),
        )
    if verify_digest and sha256_of(path) != record.sha256:
        raise EngineError(
            f"{path} is not the engine that its record describes: their SHA-256 differ{_owner(path, record)}",
            rebuild_hint(path),
        )


def _owner(path: Path, record: EngineRecord) -> str:
    """Names the neighbouring variant that a file in the wrong place comes from, where there is one."""
    digest = sha256_of(path)
    for other in sorted(path.parent.parent.glob("*/*.engine.json")):
        try:
            found = EngineRecord.read(other)
        except (RecordError, OSError):
            continue  # a neighbour that cannot be read is not what this message is about
        if found.sha256 == digest and found.sha256 != record.sha256:
            return f"; it is {other.parent.name}'s {found.graph}"
    return ""


def open_engine(
    directory: Path,
    part: str,
    options: EngineOptions | None = None,
    *,
    variant: Variant | None = None,
    verify_digest: bool = True,
) -> Engine:
    """Open ``<part>.engine`` of a variant's directory.

    ``variant`` is what messages about too large a batch go by. :class:`RecordError` for its record,
    :class:`EngineError` for a file that its record is not about, or that does not load with what is installed here;
    :class:`CannotRunHere` among them for a sound one that needs another machine.
    """
    record = read_record(directory, part)
    path = engine_file(directory, part)
    check_file(path, record, verify_digest)
    options = options or EngineOptions()
    try:
        if record.backend == "onnxruntime":
            from sam3_runtime.backends.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(path, record, options, variant, rebuild_hint(path))
        if record.backend == "tensorrt-rtx":
            from sam3_runtime.backends import tensorrt_rtx

            return tensorrt_rtx.open_engine(path, record, rebuild_hint(path))
        if record.backend == "fake":
            from sam3_runtime.backends.fake import FakeEngine

            return FakeEngine(record, variant)
    except ImportError as error:
        raise EngineError(
            f"{path} is for the backend {record.backend}, whose library is not installed here ({error})",
            INSTALL.get(record.backend),
        ) from error
    raise EngineError(
        f"{path} is for the backend {record.backend}, which this version does not run", "update sam3-runtime"
    )
