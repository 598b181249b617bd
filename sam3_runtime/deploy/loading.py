"""Opens a variant: records read and compared first, then its engines, and the pipeline over them.

Knows which records belong together and what is checked before anything is opened; knows no backend.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError, RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.deploy.configure import check_agreement, check_name, read_config, read_records
from sam3_runtime.deploy.overview import status_of
from sam3_runtime.engines.running import check_engine, check_file, engine_file, open_device, open_engine
from sam3_runtime.engines.running.base import Device, Engine, EngineOptions
from sam3_runtime.engines.running.on_demand import OnDemandEngine
from sam3_runtime.families import runtime
from sam3_runtime.families.base import FamilySpec
from sam3_runtime.measure.memory import check_fits
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, VariantConfig

log = logging.getLogger(__name__)


def load(
    directory: str | Path,
    *,
    parts: Collection[str] | None = None,
    threads: int | None = None,
    providers: Sequence[str] = (),
    gpu: int = 0,
    cuda_graphs: bool = True,
    release_text: bool = True,
    verify_digest: bool = True,
) -> Any:
    """Open the variant in ``directory``, such as ``engines/b8_q50_r672`` or an unpacked archive.

    Gives the model of its family: of SAM3 a :class:`sam3_runtime.Pipeline`. Records are read and compared before
    any engine is opened. ``parts`` are those to open, by default all: detecting classes of a bank needs the vision
    encoder and the decoder alone, and neither files nor memory of the others. ``threads`` is for engines on a CPU
    (all cores when None), ``providers`` for ONNX Runtime, ``gpu`` the GPU's number: from 0, as ``nvidia-smi`` or,
    where it is set, CUDA_VISIBLE_DEVICES orders them. On a GPU, launches are replayed as one while shapes stay with
    ``cuda_graphs``, and with ``release_text`` the text encoder leaves its memory once the prompts are encoded (and
    comes back for new words). ``verify_digest=False`` skips hashing the engines, for files that were checked
    before; an engine is a program, so do that only where nobody else writes. A text encoder that comes back is
    hashed again where its file was changed. A variant that the accuracy gate did not pass is opened with a warning
    in the log.

    Raises :class:`RecordError` for records that are missing, damaged or do not belong together, :class:`EngineError`
    for an engine that does not load here; each says how to rebuild.
    """
    directory = Path(directory)
    config = read_config(directory)
    spec = config.spec
    chosen = _chosen(spec, parts)
    records = read_records(directory, chosen)
    check_name(directory, config)
    check_agreement(directory, config, records)
    for part in chosen:
        _check_assets(directory, part, config)
    options = EngineOptions(threads, tuple(providers), gpu, cuda_graphs)
    variant = Variant(tuple(config.axes[key] or 0 for key in spec.keys), config.quantize or "none", spec)
    stamps = {part: _stamp(engine_file(directory, part)) for part in chosen}
    checked = {part: check_engine(directory, part, verify_digest=verify_digest) for part in chosen}
    device = open_device(directory, config.backend, options)
    engines: dict[str, Engine] = {}
    try:
        status, reason = status_of(directory, records, device.name)
        if status != "passed":
            log.warning("%s is %s: %s", config.variant, status.upper(), reason)
        _check_memory(directory, records, device)
        for part in chosen:
            open_it = partial(
                open_engine, directory, part, options, device=device, variant=variant, checked=checked[part]
            )
            engines[part] = open_it()
            if spec.parts[part].on_demand and release_text and device.memory() is not None:
                path = engine_file(directory, part)
                reopen = _reopening(path, checked[part], stamps[part], verify_digest, open_it)
                engines[part] = OnDemandEngine(engines[part], reopen)
        return runtime(config.family).open_model(
            config, engines, device, directory=directory, status=status, reason=reason
        )
    except BaseException:
        for engine in engines.values():
            engine.close()
        device.close()
        raise


def _chosen(spec: FamilySpec, parts: Collection[str] | None) -> list[str]:
    if parts is None:
        return list(spec.parts)
    unknown = sorted(set(parts) - set(spec.parts))
    if unknown or not parts:
        raise EngineError(
            f"{', '.join(unknown) or 'nothing'} is no part of a variant", f"its parts are {', '.join(spec.parts)}"
        )
    return [part for part in spec.parts if part in parts]


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _reopening(
    path: Path,
    record: EngineRecord,
    stamp: tuple[int, ...] | None,
    verify_digest: bool,
    open_it: Callable[[], Engine],
) -> Callable[[], Engine]:
    """Opens an engine again. Its file is checked once more only where it is not the one that was checked before, by
    ``stamp``: hashing 700 MB for each new word would hold a stream up."""

    def reopen() -> Engine:
        nonlocal stamp
        now = _stamp(path)
        if now != stamp:
            try:
                check_file(path, record, verify_digest)
            except EngineError as error:
                raise EngineError(
                    f"{error.message}; it was changed after the variant was opened",
                    f"open the variant again, or {error.hint}",
                ) from None
            stamp = now
        return open_it()

    return reopen


def _check_memory(directory: Path, records: Mapping[str, EngineRecord], device: Device) -> None:
    known = device.memory()
    if known is not None:
        check_fits(directory, records, known[0], device.name)


def _check_assets(directory: Path, part: str, config: VariantConfig) -> None:
    """:class:`RecordError` where a file that the part needs to run is missing or another one."""
    for asset in config.spec.parts[part].assets:
        path = directory / asset
        if not path.is_file():
            raise RecordError(f"{path} is missing", rebuild_hint(path))
        if sha256_of(path) != config.assets[asset]:
            raise RecordError(f"{path} is not the {path.stem} that the {part} was exported with", rebuild_hint(path))
