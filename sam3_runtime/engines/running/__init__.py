"""Opens an engine of any backend, after everything that can be said about it without loading it was checked.

An engine is a binary program: it is loaded only when its SHA-256 is the one in its record. Backends are imported when
an engine of theirs is opened; a missing library is an error that names the pip extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import CannotRunHere, EngineError, RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.core.integrity import difference
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.engines.running.base import Device, Engine, EngineOptions
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.plan.toolchain import why_not_run
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord

__all__ = [
    "Device", "Engine", "EngineOptions", "check_engine", "check_file", "engine_file", "open_device", "open_engine",
    "read_record",
]  # fmt: skip

_TAKE_IT = "take it to the machine that has the card: sam3-runtime pack {folder} out.tar; there: unpack, then verify"


def engine_file(directory: Path, part: str) -> Path:
    return directory / f"{part}.engine"


def record_file(directory: Path, part: str) -> Path:
    return directory / f"{part}.engine.json"


def read_record(directory: Path, part: str) -> EngineRecord:
    """The record of ``part`` in a variant's directory; :class:`RecordError` when it is missing or of another part."""
    path = record_file(directory, part)
    record = EngineRecord.read(path)
    if record.part != part:
        raise RecordError(f"{path} is the record of a {record.part}", rebuild_hint(engine_file(directory, part)))
    return record


def check_file(path: Path, record: EngineRecord, verify_digest: bool = True) -> None:
    """:class:`EngineError` unless ``path`` is the file that ``record`` is about."""
    what = difference(path, record, "always" if verify_digest else "never")
    if what:
        raise EngineError(f"{path} {what}{_owner(path, record)}", rebuild_hint(path))


def _owner(path: Path, record: EngineRecord) -> str:
    """Names the neighbouring variant that a file in the wrong place comes from, where there is one."""
    if not path.is_file():
        return ""
    digest = sha256_of(path)
    for other in sorted(path.parent.parent.glob("*/*.engine.json")):
        try:
            found = EngineRecord.read(other)
        except (RecordError, OSError):
            continue  # a neighbour that cannot be read is not what this message is about
        if found.sha256 == digest and found.sha256 != record.sha256:
            return f"; it is {other.parent.name}'s {found.graph}"
    return ""


def check_engine(directory: Path, part: str, *, verify_digest: bool = True) -> EngineRecord:
    """The record of ``part``, once everything was checked that can be without a device.

    :class:`RecordError` for the record, :class:`EngineError` for a file that it is not about, or that does not fit
    what is installed here.
    """
    record = read_record(directory, part)
    path = engine_file(directory, part)
    check_file(path, record, verify_digest)
    with _installed(path, record):
        _module_of(record.backend).check_engine(path, record, rebuild_hint(path))
    return record


def open_device(directory: Path, backend: str, options: EngineOptions) -> Device:
    """What the engines in ``directory`` run on; :class:`CannotRunHere` where that needs a GPU and there is none."""
    if not BACKENDS[backend].on_gpu:
        return HostDevice()
    reason = why_not_run(backend)
    if reason:
        raise CannotRunHere(reason, _TAKE_IT.format(folder=directory))
    from sam3_runtime.engines.running.cuda import Cuda
    from sam3_runtime.engines.running.cuda_device import CudaDevice

    return CudaDevice(Cuda(options.gpu))


def open_engine(
    directory: Path,
    part: str,
    options: EngineOptions | None = None,
    *,
    device: Device | None = None,
    variant: Variant | None = None,
    verify_digest: bool = True,
    checked: EngineRecord | None = None,
) -> Engine:
    """Open ``<part>.engine`` of a variant's directory, which is checked first (:func:`check_engine`).

    ``checked`` is what that check gave, where it was made a moment ago: it is not made again.
    ``device`` is where it runs (:func:`open_device`): engines of one variant share one; by default it gets its own.
    ``variant`` is what messages about too large a batch go by. Raises :class:`EngineError` for an engine that does not
    load here; :class:`CannotRunHere` among them for a sound one that needs another machine.
    """
    record = checked or check_engine(directory, part, verify_digest=verify_digest)
    path = engine_file(directory, part)
    options = options or EngineOptions()
    device = device or open_device(directory, record.backend, options)
    with _installed(path, record):
        module = _module_of(record.backend)
        opened: Engine = module.open_engine(path, record, options, device, variant, rebuild_hint(path))
    return opened


def _module_of(backend: str) -> Any:
    return import_module(f"sam3_runtime.{BACKENDS[backend].run_code[0].replace('/', '.')}")


@contextmanager
def _installed(path: Path, record: EngineRecord) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise EngineError(
            f"{path} is for the backend {record.backend}, whose library is not installed here ({error})",
            BACKENDS[record.backend].install,
        ) from error
