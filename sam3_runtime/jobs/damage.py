"""What in a work folder differs from its records, and so is to be made again.

Each ``snakemake`` looks at what it is about to use, by sizes and time stamps; ``sam3-runtime check`` looks at
everything, by digests, and takes the stamps from what differs. So both end in the same: Snakemake makes the file again,
and all that depends on it. What is missing is no damage: Snakemake sees it itself. Pure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.integrity import Hashing, difference
from sam3_runtime.deploy.configure import check_agreement
from sam3_runtime.plan.paths import chain, engine_id
from sam3_runtime.plan.planning import Plan
from sam3_runtime.records.measurements import BenchResult
from sam3_runtime.records.records import EngineRecord, VariantConfig, Verdict

_LOOKED_AT = ("build", "link", "configure", "verify", "bench")


class Inspection:
    """Looks at the files of a work folder; at those that variants share once."""

    def __init__(self, folder: Path, plan: Plan, hashing: Hashing = "where touched") -> None:
        self._folder = folder
        self._plan = plan
        self._hashing = hashing
        self._engines: dict[str, EngineRecord | str | None] = {}
        self._digests: dict[tuple[int, int], str] = {}
        self.assets = [f"onnx/{asset}" for asset in plan.family.assets]

    def look(self, file: str) -> str | None:
        """What makes ``file``, a path within the folder, another than it should be, to be read after its name; None
        where nothing does, where it is missing, and where that follows from what it is made of."""
        if file in self.assets:
            name = Path(file).name
            return next(filter(None, (self._asset(variant, name) for variant in self._plan.names)), None)
        if file.startswith("engines/store/"):
            found = self._engine(file)
            return found if isinstance(found, str) else None
        folder, _, name = file.partition("/")
        if folder == "bench":
            return self._said(file, BenchResult, name.removesuffix(".json"))
        variant, _, name = name.partition("/")
        if name == "config.json":
            return self._config(variant)
        if name == "verify.json":
            return self._said(file, Verdict, variant)
        if name in self._plan.family.assets:
            return self._asset(variant, name)
        return self._link(file, variant, Path(name).stem)

    def _engine(self, file: str) -> EngineRecord | str | None:
        """An engine of the store: its record, or what is wrong with either; None where one of them is missing."""
        if file not in self._engines:
            path, beside = self._folder / file, self._folder / f"{file}.json"
            record = _read(EngineRecord, beside) if path.exists() else None
            if isinstance(record, EngineRecord):
                self._engines[file] = difference(path, record, self._hashing) or record
            else:
                self._engines[file] = f"has a record that {record}" if record else None
        return self._engines[file]

    def _stored(self, variant: str, part: str) -> str:
        return f"engines/store/{engine_id(self._plan.family.parts[part], self._plan.variant(variant))}.engine"

    def _link(self, link: str, variant: str, part: str) -> str | None:
        """A variant's engine and its record are links to those of the store, or copies of them."""
        stored = self._stored(variant, part)
        for ending in ("", ".json"):
            one, other = self._folder / f"{link}{ending}", self._folder / f"{stored}{ending}"
            if one.exists() and other.exists() and not one.samefile(other) and self._digest(one) != self._digest(other):
                return f"is not {stored}"
        return None

    def _digest(self, path: Path) -> str:
        found = path.stat()
        file = found.st_dev, found.st_ino
        if file not in self._digests:
            self._digests[file] = sha256_of(path)
        return self._digests[file]

    def _records(self, variant: str) -> dict[str, EngineRecord] | None:
        """The records of a variant's engines; None where they are not all there and right."""
        found = {part: self._engine(self._stored(variant, part)) for part in self._plan.family.parts}
        whole = {str(part): record for part, record in found.items() if isinstance(record, EngineRecord)}
        return whole if len(whole) == len(found) else None

    def _config(self, variant: str) -> str | None:
        directory, records = self._folder / "engines" / variant, self._records(variant)
        config = _read(VariantConfig, directory / "config.json")
        if not isinstance(config, VariantConfig) or records is None:
            return config if isinstance(config, str) else None
        return _of_another(config, variant) or _disagreement(directory, config, records)

    def _asset(self, variant: str, name: str) -> str | None:
        directory = self._folder / "engines" / variant
        path, config = directory / name, _read(VariantConfig, directory / "config.json")
        if not path.exists() or not isinstance(config, VariantConfig) or self._digest(path) == config.assets.get(name):
            return None
        return f"is not the {path.stem} that engines/{variant}/config.json names"

    def _said(self, file: str, kind: type[Verdict] | type[BenchResult], variant: str) -> str | None:
        """What was found of a variant's engines: a verdict or a benchmark."""
        found, records = _read(kind, self._folder / file), self._records(variant)
        if found is None or isinstance(found, str) or records is None:
            return found if isinstance(found, str) else None
        if isinstance(found, Verdict) and found.status == "failed":
            return "says failed, and a failure is about a moment: a full memory, a missing library"
        if found.engines != {part: record.sha256 for part, record in records.items()}:
            return "is about other engines"
        return _of_another(found, variant)


def check(folder: Path, plan: Plan) -> list[str]:
    """What differs, by digest, a line each. Engines that differ lose their time stamp, so that Snakemake, which goes by
    it, sees the difference too."""
    inspection, said = Inspection(folder, plan, "always"), []
    steps = [step for name in plan.names for step in chain(plan, plan.variant(name)) if step.stage in _LOOKED_AT]
    for file in dict.fromkeys([*inspection.assets, *(step.files[0] for step in steps)]):
        path = folder / file
        dangling = "points to a file that is gone" if path.is_symlink() and not path.exists() else None
        what = dangling or inspection.look(file)
        if what:
            said.append(f"{file} {what}")
        if what and not dangling and file.startswith("engines/store/"):
            os.utime(path)
    return said


def remove_dangling_links(folder: Path) -> None:
    """Remove the links below ``engines/`` whose engine is gone, as from a cache that was cleaned or is not mounted:
    Snakemake can plan nothing with them. Says so of those in the store, where the others lead."""
    for pattern in ("store/*/*", "b[0-9]*/*"):
        for link in sorted((folder / "engines").glob(pattern)):
            if link.is_symlink() and not link.exists():
                if pattern.startswith("store"):
                    print(f"{link.relative_to(folder)} led to {link.readlink()}, which is gone", file=sys.stderr)
                link.unlink()


def _read(kind: Any, path: Path) -> Any:
    """The record, or what is wrong with it; None where there is none."""
    if not path.exists():
        return None
    try:
        return kind.read(path)
    except RecordError as error:
        return error.message.removeprefix(f"{path} ")


def _of_another(said: Any, variant: str) -> str | None:
    return None if said.variant == variant else f"is of {said.variant}"


def _disagreement(directory: Path, config: VariantConfig, records: Mapping[str, EngineRecord]) -> str | None:
    try:
        check_agreement(directory, config, records)
    except RecordError as error:
        return f"does not fit its engines: {error.message}"
    return None
