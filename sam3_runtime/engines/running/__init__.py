"""Opens an engine of any backend, after everything was checked that can be without loading it.

An engine is a binary program: it is loaded only when its SHA-256 is the one in its record. Backends are imported when
an engine of theirs is opened; the error for a missing library names the pip extra.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import CannotRunHere, EngineError, RecordError
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.engines.running.base import Device, Engine, EngineOptions
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.plan.toolchain import why_not_run
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.integrity import difference
from sam3_runtime.records.records import EngineRecord


def engine_file(directory: Path, part: str) -> Path:
    """Return the path of a part's engine in a variant's directory."""
    return directory / f"{part}.engine"


def check_file(path: Path, record: EngineRecord, verify_digest: bool = True) -> None:
    """Raise :class:`EngineError` unless ``path`` is the file that ``record`` describes."""
    what = difference(path, record, "always" if verify_digest else "never")
    if what:
        raise EngineError(f"{path} {what}", rebuild_hint(path))


def check_engine(directory: Path, part: str, *, verify_digest: bool = True) -> EngineRecord:
    """Return the record of ``part`` in a variant's directory, after all checks that need no device.

    Raises :class:`RecordError` for the record, :class:`EngineError` for a file that it does not describe, or that does
    not fit what is installed here.
    """
    path = engine_file(directory, part)
    record = EngineRecord.read(path.with_name(f"{path.name}.json"))
    if record.part != part:
        raise RecordError(f"{path}.json is the record of a {record.part}", rebuild_hint(path))
    check_file(path, record, verify_digest)
    _call_backend("check_engine", path, record)
    return record


def open_device(directory: Path, backend: str, options: EngineOptions) -> Device:
    """Return the device for the engines in ``directory``.

    Raises :class:`CannotRunHere` where it needs a GPU and there is none.
    """
    if not BACKENDS[backend].on_gpu:
        return HostDevice()
    reason = why_not_run(backend)
    if reason:
        carry = f"sam3-runtime pack {directory} out.tar; there: unpack, then verify"
        raise CannotRunHere(reason, f"take it to the machine with the GPU: {carry}")
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
    """Check (:func:`check_engine`) and open ``<part>.engine`` of a variant's directory.

    ``checked`` is the result of a check that was made already. Engines of one variant share a ``device``
    (:func:`open_device`); by default each gets its own. The message for a batch that is too large names a sibling of
    ``variant``. Raises :class:`EngineError` for an engine that does not load here; :class:`CannotRunHere` among them
    for a sound one that needs another machine.
    """
    record = checked or check_engine(directory, part, verify_digest=verify_digest)
    options = options or EngineOptions()
    device = device or open_device(directory, record.backend, options)
    engine: Engine = _call_backend("open_engine", engine_file(directory, part), record, options, device)
    engine.variant = variant
    return engine


def _call_backend(function: str, path: Path, record: EngineRecord, *arguments: Any) -> Any:
    spec = BACKENDS[record.backend]
    try:
        module = import_module(f"sam3_runtime.{spec.run_code[0].replace('/', '.')}")
        return getattr(module, function)(path, record, *arguments)
    except ImportError as error:
        raise EngineError(
            f"{path} needs {spec.title}, which is not installed here or does not load ({error})", spec.install
        ) from error
