"""Find the files of a work folder that differ from their records, so that they are made again.

Each ``snakemake`` inspects the files that it is about to use, by size and modification time; ``sam3-runtime check``
inspects all files by digest, and changes the modification time of engines that differ. Both have the same effect:
Snakemake makes the file again, and all that depends on it. A missing file is left to Snakemake. Pure.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.deploy.configure import check_agreement
from sam3_runtime.plan.paths import engine_id, steps
from sam3_runtime.plan.planning import Plan
from sam3_runtime.records.integrity import Hashing, difference
from sam3_runtime.records.measurements import BenchResult
from sam3_runtime.records.records import EngineRecord, VariantConfig, Verdict

_INSPECTED = ("build", "link", "configure", "verify", "bench")


class Inspection:
    """Inspects the files of a work folder; files that variants share once."""

    def __init__(self, folder: Path, plan: Plan, hashing: Hashing = "where touched") -> None:
        self._folder, self._plan, self._hashing = folder, plan, hashing
        self._engine = cache(self._read_engine)
        self._digest = cache(sha256_of)
        self.assets = [f"onnx/{asset}" for asset in plan.family.assets]

    def look(self, file: str) -> str | None:
        """Return how ``file``, a path within the folder, differs from what it should be, to be read after its name.

        None where it does not, where it is missing, and where the difference follows from a file that it is made of.
        """
        path, family = self._folder / file, self._plan.family
        if file in self.assets:
            return next(filter(None, (self._asset(variant, path.name) for variant in self._plan.names)), None)
        if file.startswith("engines/store/"):
            found = self._engine(file)
            return found if isinstance(found, str) else None
        if path.name in family.assets:
            return self._asset(path.parent.name, path.name)
        if path.suffix == ".engine":
            return self._link(path)
        return self._result(path, path.stem if file.startswith("bench/") else path.parent.name)

    def _read_engine(self, file: str) -> EngineRecord | str | None:
        """Return the record of an engine in the store, or what is wrong with either; None where one is missing."""
        path = self._folder / file
        record = _read(EngineRecord, self._folder / f"{file}.json") if path.exists() else None
        if isinstance(record, EngineRecord):
            return difference(path, record, self._hashing) or record
        return f"has a record that {record}" if record else None

    def _stored(self, variant: str, part: str) -> str:
        return f"engines/store/{engine_id(self._plan.family.parts[part], self._plan.variant(variant))}.engine"

    def _records(self, variant: str) -> dict[str, EngineRecord] | None:
        """Return the records of a variant's engines; None where one is missing or differs."""
        found = {part: self._engine(self._stored(variant, part)) for part in self._plan.family.parts}
        whole = {part: record for part, record in found.items() if isinstance(record, EngineRecord)}
        return whole if len(whole) == len(found) else None

    def _link(self, path: Path) -> str | None:
        """Check a variant's engine and its record, which are links to those of the store, or copies of them."""
        stored = self._stored(path.parent.name, path.stem)
        for ending in ("", ".json"):
            one, other = (Path(f"{file}{ending}").resolve() for file in (path, self._folder / stored))
            if one.exists() and other.exists() and one != other and self._digest(one) != self._digest(other):
                return f"is not {stored}"
        return None

    def _asset(self, variant: str, name: str) -> str | None:
        path = self._folder / "engines" / variant / name
        config = _read(VariantConfig, path.with_name("config.json"))
        if not isinstance(config, VariantConfig) or not path.exists():
            return None
        same = self._digest(path.resolve()) == config.assets.get(name)
        return None if same else f"is not the {path.stem} that engines/{variant}/config.json names"

    def _result(self, path: Path, variant: str) -> str | None:
        """Check a variant's configuration, verdict or benchmark."""
        kind: type[Any] = {"config.json": VariantConfig, "verify.json": Verdict}.get(path.name, BenchResult)
        found, records = _read(kind, path), self._records(variant)
        if not isinstance(found, kind) or records is None:
            return found if isinstance(found, str) else None
        if found.variant != variant:
            return f"is of {found.variant}"
        if isinstance(found, VariantConfig):
            try:
                check_agreement(path.parent, found, records)
            except RecordError as error:
                return f"does not fit its engines: {error.message}"
        elif isinstance(found, Verdict) and found.status == "failed":
            return "reports a failure, which may have passed: full memory, a missing library"
        elif found.engines != {part: record.sha256 for part, record in records.items()}:
            return "is about other engines"
        return None


def check(folder: Path, plan: Plan) -> list[str]:
    """Return what differs by digest, one line per file.

    Engines that differ get a new modification time, so that Snakemake sees the difference too.
    """
    inspection, report = Inspection(folder, plan, "always"), []
    made = [file for step in steps(plan) if step.stage in _INSPECTED for file in step.files]
    for file in (*inspection.assets, *(file for file in made if not file.endswith(".engine.json"))):
        path = folder / file
        if path.is_symlink() and not path.exists():
            report.append(f"{file} points to a file that is gone")
        elif damaged := inspection.look(file):
            report.append(f"{file} {damaged}")
            if file.startswith("engines/store/"):
                os.utime(path)
    return report


def remove_dangling_links(folder: Path) -> None:
    """Remove the links below ``engines/`` whose target is gone, as from a cache that was cleaned or is not mounted.

    Snakemake cannot plan with them. Prints a line for each one in the store, to which the others lead.
    """
    for pattern in ("store/*/*", "b[0-9]*/*"):
        for link in sorted((folder / "engines").glob(pattern)):
            if link.is_symlink() and not link.exists():
                if pattern.startswith("store"):
                    print(f"{link.relative_to(folder)} led to {link.readlink()}, which is gone", file=sys.stderr)
                link.unlink()


def _read(kind: Any, path: Path) -> Any:
    """Return the record, or what is wrong with it; None where there is none."""
    if not path.exists():
        return None
    try:
        return kind.read(path)
    except RecordError as error:
        return error.message.removeprefix(f"{path} ")
