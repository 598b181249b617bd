"""Memory: what a variant takes on a GPU, on paper, and what this process takes.

The prediction is arithmetic on the records of a variant: nothing is opened and no GPU is needed. Knows no
backend: it is made where the records have the sizes that it needs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.families.base import resolve
from sam3_runtime.records.records import EngineRecord, TensorRecord

MIB = 1 << 20
CUDA_CONTEXT_MIB = 500
"""Assumed, not known: what the driver takes for a process before anything is loaded. It differs by card and driver."""
CARD_SIZES_GB = (6, 8, 12, 16, 24)
"""Cards that people own, in the gigabytes (2**30 bytes) that they are sold by."""
_ITEM = {"float32": 4, "float16": 2, "int64": 8, "int32": 4, "bool": 1}


def predict(records: Mapping[str, EngineRecord]) -> dict[str, Any] | None:
    """Predicted device memory of a variant, in MiB; nothing where a record lacks the sizes.

    ``with_text`` holds all engines, ``without_text`` what stays where those that come on demand (a text encoder, once
    the prompts are encoded) are released. Each has weights, scratch (one block, which the engines take in turn),
    buffers, their sum without the CUDA context, and the sizes of cards that they fit in with it.
    """
    if any(record.sizes.weights is None or block_of(record) is None for record in records.values()):
        return None
    kept = {part: record for part, record in records.items() if not record.spec.parts[part].on_demand}
    block = max(block_of(record) or 0 for record in records.values())  # it stays as large as the largest wants it
    return {
        "with_text": _sum_up(records.values(), block),
        "without_text": _sum_up(kept.values(), block),
        "assumed_cuda_context_mib": CUDA_CONTEXT_MIB,
    }


def saving(records: Mapping[str, EngineRecord], opened: Iterable[str]) -> str:
    """What opening only some parts of a variant saves, at its peak, in words.

    On a GPU that is the difference of the predictions; elsewhere the size of the engine files, which is about what
    their weights take.
    """
    kept = {part: records[part] for part in opened}
    whole, part = predict(records), predict(kept)
    if whole is not None and part is not None:
        return f"{whole['with_text']['total_mib'] - part['with_text']['total_mib']:.1f} MiB of GPU memory, as predicted"
    return f"{_mib(sum(record.sizes.file for name, record in records.items() if name not in kept))} MiB of weights"


def check_fits(directory: Path, records: Mapping[str, EngineRecord], free: int, gpu: str) -> None:
    """:class:`EngineError` where the predicted memory of the variant in ``directory`` is more than is ``free`` (bytes)
    on ``gpu``; nothing is said where it cannot be predicted."""
    predicted = predict(records)
    if predicted is None:
        return
    sizes = predicted["with_text"]
    if sizes["total_mib"] * MIB <= free:
        return
    raise EngineError(
        f"{directory} needs about {sizes['total_mib']:.0f} MiB of GPU memory ({sizes['weights_mib']:.0f} weights, "
        f"{sizes['scratch_mib']:.0f} scratch, {sizes['buffers_mib']:.0f} buffers), and {free / MIB:.0f} MiB are free "
        f"on {gpu}",
        "close what else runs there (nvidia-smi), or take a variant of a smaller batch or resolution: "
        f"sam3-runtime info {directory.parent} says what each takes",
    )


def block_of(record: EngineRecord) -> int | None:
    """Bytes of device memory that one run of the engine works in, besides weights, inputs and outputs."""
    known = [size for size in (record.sizes.scratch, record.sizes.activation) if size is not None]
    return max(known, default=None)


def buffers_of(records: Iterable[EngineRecord]) -> int:
    """Bytes of all inputs and outputs at the profile's largest, each counted once.

    What one engine writes is what the next one reads, by address, where name and type agree. Where the types differ it
    is converted, into one block for each name and type.
    """
    largest: dict[tuple[str, str], int] = {}
    for record in records:
        limits = {symbol: high for symbol, (_, _, high) in record.profile.items()}
        for tensor in (*record.inputs, *record.outputs):
            key = tensor.name, tensor.dtype
            largest[key] = max(largest.get(key, 0), bytes_of(tensor, limits))
    return sum(largest.values())


def bytes_of(tensor: TensorRecord, limits: Mapping[str, int]) -> int:
    """Of a tensor whose dynamic dimensions are ``limits``."""
    return prod(int(size) for size in resolve(tensor.shape, limits)) * _ITEM[tensor.dtype]


def _sum_up(chosen: Iterable[EngineRecord], scratch: int) -> dict[str, Any]:
    records = list(chosen)
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
    """For people: the smallest of the cards that it fits in."""
    return f"{fits[0]} GB" if fits else f"more than {CARD_SIZES_GB[-1]} GB"


def process_mib(field: str = "VmRSS") -> float | None:
    """A memory field of this process in MiB as Linux gives it, such as ``VmHWM``, its peak; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)
