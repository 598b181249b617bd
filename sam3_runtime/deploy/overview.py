"""Describe one variant or a folder of them, for ``sam3-runtime info``.

Reads records only; opens no engine and needs no array library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import RecordError
from sam3_runtime.deploy.configure import check_agreement, check_name, read_records
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.integrity import check_engines
from sam3_runtime.records.memory import MIB, predict
from sam3_runtime.records.records import EngineRecord, VariantConfig, Verdict


def status_of(directory: Path, records: dict[str, EngineRecord], device: str | None = None) -> tuple[str, str]:
    """Return status and reason of the verdict; ``unverified`` without one, or with one of other engines or devices.

    ``records`` are those of the parts in use. ``device`` is the name of the opened device; by default the one that the
    engines would run on here.
    """
    try:
        verdict = Verdict.read(directory / "verify.json")
    except RecordError as error:
        return "unverified", str(error).splitlines()[0]
    if any(verdict.engines.get(part) != record.sha256 for part, record in records.items()):
        return "unverified", "verify.json is about other engines than those here"
    if verdict.status == "unverified":
        return verdict.status, f"{verdict.reason}; on an RTX GPU: sam3-runtime verify {directory}"
    here = device or device_name(next(iter(records.values())).toolchain)  # parts of one variant share a backend
    if verdict.device != here:
        return "unverified", f"verified on {verdict.device}, not on {here}: run sam3-runtime verify {directory}"
    return verdict.status, verdict.reason


def describe(directory: Path) -> dict[str, Any]:
    """Return the content of all records of the variant in ``directory`` as plain data; raises :class:`RecordError`."""
    config = VariantConfig.read(directory / "config.json")
    records = read_records(directory, config.spec.parts)
    check_name(directory, config)
    check_agreement(directory, config, records)
    check_engines(directory, records)
    status, reason = status_of(directory, records)
    return {
        "variant": config.variant,
        "folder": directory.name or directory.resolve().name,
        "status": status,
        "reason": reason,
        "config": config.model_dump(mode="json"),
        "engines": {part: record.model_dump(mode="json") for part, record in records.items()},
        "total_mib": round(sum(record.sizes.file for record in records.values()) / MIB, 1),
        "memory": predict(records),
    }


def overview(engines: Path) -> dict[str, Any]:
    """Return the variants in a folder such as ``engines/``, and the space saved by sharing engines (MiB)."""
    variants, apart = [], 0
    shared: dict[str, int] = {}
    for directory in sorted(path for path in engines.iterdir() if (path / "config.json").exists()):
        try:
            found = describe(directory)
        except RecordError as error:
            found = {"variant": directory.name, "folder": directory.name, "status": "damaged", "reason": str(error)}
            found |= {"total_mib": 0.0, "memory": None, "engines": {}}
        variants.append({key: found[key] for key in ("variant", "folder", "status", "reason", "total_mib", "memory")})
        sizes = {engine["sha256"]: engine["sizes"]["file"] for engine in found["engines"].values()}
        apart += sum(sizes.values())
        shared |= sizes
    if not variants:
        raise RecordError(f"{engines} contains no variant with a config.json", "build one: snakemake")
    together = sum(shared.values())
    return {
        "variants": variants,
        "distinct_engines": len(shared),
        "stored_mib": round(together / MIB, 1),
        "saved_by_sharing_mib": round((apart - together) / MIB, 1),
    }
