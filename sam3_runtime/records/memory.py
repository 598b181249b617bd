"""Memory: what a variant takes on a GPU, predicted from its records, and what this process takes.

The prediction is arithmetic: nothing is opened and no GPU is needed. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.families.base import resolve
from sam3_runtime.records.records import EngineRecord, TensorRecord

MIB = 1 << 20
CUDA_CONTEXT_MIB = 500
"""Assumed: the memory that the driver takes for a process before anything is loaded. It differs by GPU and driver."""
CARD_SIZES_GB = (6, 8, 12, 16, 24)
"""Common GPU memory sizes, in gigabytes of 2**30 bytes."""
_ITEM = {"float32": 4, "float16": 2, "int64": 8, "int32": 4, "bool": 1}


def predict(records: Mapping[str, EngineRecord]) -> dict[str, Any] | None:
    """Return the predicted device memory of a variant, in MiB; None where a record lacks the sizes.

    ``with_text`` is for all engines, ``without_text`` after those that are opened on demand (a text encoder, once the
    prompts are encoded) are released. Each has weights, scratch (one block, which the engines use in turn), buffers,
    their sum without the CUDA context, and the GPU sizes that it fits into with the context.
    """
    blocks = [_block_of(record) for record in records.values()]
    if None in blocks or any(record.sizes.weights is None for record in records.values()):
        return None
    scratch = max(block or 0 for block in blocks)  # it stays as large as the largest engine needs
    kept = [record for part, record in records.items() if not record.spec.parts[part].on_demand]
    return {
        "with_text": _sum_up(records.values(), scratch),
        "without_text": _sum_up(kept, scratch),
        "assumed_cuda_context_mib": CUDA_CONTEXT_MIB,
    }


def saving(records: Mapping[str, EngineRecord], opened: Iterable[str]) -> str:
    """Return in words how much memory it saves to open only some parts of a variant.

    On a GPU that is the difference of the predictions; elsewhere the size of the engine files, which is about that of
    their weights.
    """
    kept = {part: records[part] for part in opened}
    whole, part = predict(records), predict(kept)
    if whole is not None and part is not None:
        return f"{whole['with_text']['total_mib'] - part['with_text']['total_mib']:.1f} MiB of GPU memory, as predicted"
    return f"{_mib(sum(record.sizes.file for name, record in records.items() if name not in kept))} MiB of weights"


def check_fits(directory: Path, records: Mapping[str, EngineRecord], free: int, gpu: str) -> None:
    """Raise :class:`EngineError` where the variant in ``directory`` does not fit on ``gpu``.

    That is, where its predicted memory is more than ``free`` bytes. Where it cannot be predicted, do nothing.
    """
    sizes = (predict(records) or {}).get("with_text")
    if sizes is None or sizes["total_mib"] * MIB <= free:
        return
    raise EngineError(
        f"{directory} needs about {sizes['total_mib']:.0f} MiB of GPU memory ({sizes['weights_mib']:.0f} weights, "
        f"{sizes['scratch_mib']:.0f} scratch, {sizes['buffers_mib']:.0f} buffers), and {free / MIB:.0f} MiB are free "
        f"on {gpu}",
        "close what else runs there (nvidia-smi), or take a variant of a smaller batch or resolution: "
        f"sam3-runtime info {directory.parent} lists the memory of each",
    )


def _block_of(record: EngineRecord) -> int | None:
    """Bytes of device memory that one run of the engine works in, besides weights, inputs and outputs."""
    return max((size for size in (record.sizes.scratch, record.sizes.activation) if size is not None), default=None)


def buffers_of(records: Iterable[EngineRecord]) -> int:
    """Return the bytes of all inputs and outputs at the profile's largest, each counted once.

    An engine reads the outputs of another by address, where name and type agree. Where the types differ they are
    converted, into one block for each name and type.
    """
    largest: dict[tuple[str, str], int] = {}
    for record in records:
        limits = {symbol: high for symbol, (_, _, high) in record.profile.items()}
        for tensor in (*record.inputs, *record.outputs):
            key = tensor.name, tensor.dtype
            largest[key] = max(largest.get(key, 0), bytes_of(tensor, limits))
    return sum(largest.values())


def bytes_of(tensor: TensorRecord, limits: Mapping[str, int]) -> int:
    """Return the bytes of a tensor whose dynamic dimensions are ``limits``."""
    return prod(int(size) for size in resolve(tensor.shape, limits)) * _ITEM[tensor.dtype]


def _sum_up(records: Collection[EngineRecord], scratch: int) -> dict[str, Any]:
    weights = sum(record.sizes.weights or 0 for record in records)
    buffers = buffers_of(records)
    total = weights + scratch + buffers
    return {
        "weights_mib": _mib(weights),
        "scratch_mib": _mib(scratch),
        "buffers_mib": _mib(buffers),
        "total_mib": _mib(total),
        "fits_gb": [size for size in CARD_SIZES_GB if total + CUDA_CONTEXT_MIB * MIB <= size << 30],
    }


def _mib(size: int) -> float:
    return round(size / MIB, 1)


def smallest_card(fits: list[int]) -> str:
    """Return the smallest GPU size that it fits into, for tables."""
    return f"{fits[0]} GB" if fits else f"more than {CARD_SIZES_GB[-1]} GB"


def process_mib(field: str = "VmRSS") -> float | None:
    """Return a memory field of this process in MiB as Linux reports it, such as ``VmHWM``, its peak; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)
