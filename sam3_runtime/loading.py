"""Opens a variant: records read and compared first, then its engines, and the pipeline over them.

Knows which records belong together and what is checked before anything is opened; knows no backend.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from sam3_runtime.backends import check_engine, open_device, open_engine
from sam3_runtime.backends.base import Device, Engine, EngineOptions
from sam3_runtime.backends.on_demand import OnDemandEngine
from sam3_runtime.config import EngineRecord, VariantConfig
from sam3_runtime.configure import check_agreement, check_name, read_records
from sam3_runtime.contract import PART_NAMES, ModelDims, PartName
from sam3_runtime.errors import RecordError
from sam3_runtime.files import sha256_of
from sam3_runtime.hints import rebuild_hint
from sam3_runtime.memory import check_fits
from sam3_runtime.overview import status_of
from sam3_runtime.pipeline import Pipeline
from sam3_runtime.prompts import Tokenizer
from sam3_runtime.variants import Variant

log = logging.getLogger(__name__)


def load(
    directory: str | Path,
    *,
    parts: Collection[PartName] = PART_NAMES,
    threads: int | None = None,
    providers: Sequence[str] = (),
    gpu: int = 0,
    cuda_graphs: bool = True,
    release_text: bool = True,
    verify_digest: bool = True,
) -> Pipeline:
    """Open the variant in ``directory``, such as ``engines/b8_q50_r672`` or an unpacked archive.

    Records are read and compared before any engine is opened. ``parts`` are those to open: detecting classes of a bank
    needs the vision encoder and the decoder alone, and neither files nor memory of the others. ``threads`` is for
    engines on a CPU (all cores when None), ``providers`` for ONNX Runtime, ``gpu`` the GPU's number where there are
    several. On a GPU, launches are replayed as one while shapes stay with ``cuda_graphs``, and with
    ``release_text`` the text encoder leaves its memory once the prompts are encoded (and comes back for new words).
    ``verify_digest=False`` skips hashing the engines, for files that were checked before; an engine is a program, so do
    that only where nobody else writes.
    A variant that the accuracy gate did not pass is opened with a warning in the log.

    Raises :class:`RecordError` for records that are missing, damaged or do not belong together, :class:`EngineError`
    for an engine that does not load here; each says how to rebuild.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RecordError(f"{directory} is no folder", "name a variant's folder, such as engines/b8_q50_r672")
    config = VariantConfig.read(directory / "config.json")
    chosen = [part for part in PART_NAMES if part in parts]
    records = read_records(directory, chosen)
    check_name(directory, config)
    check_agreement(directory, config, records)
    tokenizer = _read_tokenizer(directory, config) if "text-encoder" in chosen else None
    status, reason = status_of(directory, records)
    if status != "passed":
        log.warning("%s is %s: %s", config.variant, status.upper(), reason)
    options = EngineOptions(threads, tuple(providers), gpu, cuda_graphs)
    checked = {part: check_engine(directory, part, verify_digest=verify_digest) for part in chosen}
    device = open_device(directory, config.backend, options)
    engines: dict[PartName, Engine] = {}
    try:
        _check_memory(directory, records, device)
        for part in chosen:
            engines[part] = _open(directory, checked[part], part, options, device, config, release_text)
    except BaseException:
        for engine in engines.values():
            engine.close()
        device.close()
        raise
    return Pipeline(config, engines, tokenizer, status, reason, device)


def _open(
    directory: Path,
    checked: EngineRecord,
    part: PartName,
    options: EngineOptions,
    device: Device,
    config: VariantConfig,
    release_text: bool,
) -> Engine:
    open_it = partial(
        open_engine, directory, part, options, device=device,
        variant=Variant(config.batch, config.queries, config.resolution, config.quantize or "none"),
    )  # fmt: skip
    opened = open_it(checked=checked)
    on_demand = part == "text-encoder" and release_text and device.memory() is not None
    return OnDemandEngine(opened, open_it) if on_demand else opened


def _check_memory(directory: Path, records: Mapping[str, EngineRecord], device: Device) -> None:
    known = device.memory()
    if known is not None:
        check_fits(directory, records, known[0], device.name)


def _read_tokenizer(directory: Path, config: VariantConfig) -> Tokenizer:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise RecordError(f"{path} is missing", rebuild_hint(path))
    if sha256_of(path) != config.tokenizer_sha256:
        raise RecordError(f"{path} is not the tokenizer that the text encoder was exported with", rebuild_hint(path))
    return Tokenizer(path, ModelDims(**config.dims).text_tokens)
