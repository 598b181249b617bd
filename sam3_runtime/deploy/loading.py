"""Open a variant: read and compare its records, then open its engines and the model of its family over them.

Decides which records belong together and what is checked before an engine is opened; independent of the backend.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError, RecordError
from sam3_runtime.core.files import sha256_of, stamp_of
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.deploy.configure import check_agreement, check_name, read_config, read_records
from sam3_runtime.deploy.overview import status_of
from sam3_runtime.engines.running import check_engine, engine_file, open_device, open_engine
from sam3_runtime.engines.running.base import Engine, EngineOptions
from sam3_runtime.engines.running.on_demand import OnDemandEngine
from sam3_runtime.families import runtime
from sam3_runtime.families.base import FamilySpec
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.integrity import difference
from sam3_runtime.records.memory import check_fits
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

    Returns the model of its family; for SAM3 a :class:`sam3_runtime.Pipeline`. Records are read and compared before
    any engine is opened.

    - ``parts``: those to open, by default all. Detecting the classes of a prompt bank needs the vision encoder and the
      decoder alone, and neither files nor memory of the others.
    - ``threads``: of engines on a CPU; all cores when None. ``providers``: of ONNX Runtime.
    - ``gpu``: the GPU's number from 0, in the order of ``nvidia-smi`` or, where it is set, CUDA_VISIBLE_DEVICES.
    - ``cuda_graphs``: on a GPU, replay launches as one while shapes stay the same.
    - ``release_text``: on a GPU, free the text encoder's memory once the prompts are encoded; it is opened again for
      new words, and hashed again where its file changed.
    - ``verify_digest=False`` skips hashing the engines, for files that were checked before. An engine is a program, so
      do that only where no other user can write.

    A variant that the accuracy gate did not pass is opened with a warning in the log. Raises :class:`RecordError` for
    records that are missing, damaged or do not belong together, and :class:`EngineError` for an engine that does not
    load here; each names the command that rebuilds it.
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
    checked = {part: check_engine(directory, part, verify_digest=verify_digest) for part in chosen}
    device = open_device(directory, config.backend, options)
    engines: dict[str, Engine] = {}
    try:
        status, reason = status_of(directory, records, device.name)
        if status != "passed":
            log.warning("%s is %s: %s", config.variant, status.upper(), reason)
        memory = device.memory()
        if memory is not None:
            check_fits(directory, records, memory[0], device.name)
        for part in chosen:
            open_it = partial(
                open_engine, directory, part, options, device=device, variant=variant, checked=checked[part]
            )
            engines[part] = open_it()
            if spec.parts[part].on_demand and release_text and memory is not None:
                reopen = _reopening(engine_file(directory, part), checked[part], verify_digest, open_it)
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
            f"{', '.join(unknown) or 'nothing'} is not a part of a variant", f"its parts are {', '.join(spec.parts)}"
        )
    return [part for part in spec.parts if part in parts]


def _reopening(
    path: Path, record: EngineRecord, verify_digest: bool, open_it: Callable[[], Engine]
) -> Callable[[], Engine]:
    """Return a function that opens an engine again, and checks its file again only where it changed.

    Hashing 700 MB for each new word would hold a stream up.
    """
    stamp = stamp_of(path)

    def reopen() -> Engine:
        nonlocal stamp
        if not path.exists() or stamp_of(path) != stamp:
            changed = difference(path, record, "always" if verify_digest else "never")
            if changed:
                raise EngineError(
                    f"{path} {changed}; it was changed after the variant was opened",
                    f"open the variant again, or {rebuild_hint(path)}",
                )
            stamp = stamp_of(path)
        return open_it()

    return reopen


def _check_assets(directory: Path, part: str, config: VariantConfig) -> None:
    """Raise :class:`RecordError` where an asset of the part is missing or differs from the configuration."""
    for asset in config.spec.parts[part].assets:
        path = directory / asset
        if not path.is_file():
            raise RecordError(f"{path} is missing", rebuild_hint(path))
        if sha256_of(path) != config.assets[asset]:
            raise RecordError(f"{path} is not the {path.stem} that the {part} was exported with", rebuild_hint(path))
