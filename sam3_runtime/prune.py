"""Finds and frees what nothing uses: files of variants that are no longer listed, and cached engines without a user.

Knows the places of the work folder as ``rules/`` writes them; a test compares the two.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sam3_runtime.builders.cache import entries
from sam3_runtime.planning import Plan


@dataclass(frozen=True)
class Unused:
    """A file or folder that nothing uses, and why. ``size`` is in bytes; a link counts nothing."""

    path: Path
    why: str
    size: int


def needed(plan: Plan) -> set[str]:
    """What the listed variants need, as paths within the work folder."""
    paths = {"onnx/text-encoder.onnx", "onnx/text-encoder.onnx.data", "onnx/tokenizer.json"}
    for variant in map(plan.variant, plan.names):
        graphs = f"onnx/r{variant.resolution}"
        store = f"engines/store/b{variant.batch}_r{variant.resolution}"
        paths |= {f"{graphs}/vision-encoder{plan.vision_graph(variant.suffix)}.onnx"}
        paths |= {f"{graphs}/vision-encoder{plan.vision_data(variant.suffix)}.onnx{end}" for end in ("", ".data")}
        paths |= {f"{graphs}/geometry-encoder.onnx", f"{graphs}/decoder_q{variant.queries}.onnx"}
        paths |= {f"reference/r{variant.resolution}{ending}.safetensors" for ending in ("", "_accuracy")}
        paths |= {f"bench/{variant.name}.json", f"bench/baselines/r{variant.resolution}.json"}
        paths.add(f"accuracy/{variant.name}.json")
        if variant.suffix:
            measured = f"calibration/r{variant.resolution}"
            endings = (f"_{plan.algorithm}.cache", f"_{plan.algorithm}.json") if plan.calibrates else (".json",)
            paths |= {f"{measured}{ending}" for ending in endings}
        engines = [f"{store}/vision-encoder{variant.suffix}", f"{store}/geometry-encoder"]
        engines += [f"{store}/decoder_q{variant.queries}", f"engines/store/b{variant.batch}/text-encoder"]
        paths |= {f"{engine}{suffix}" for engine in engines for suffix in (".engine", ".engine.json")}
    return paths


def find_unused(plan: Plan, folder: Path, cache: Path) -> Iterator[Unused]:
    """What can go, in the order in which it may go: links before what they point to."""
    keep = needed(plan)
    for directory in sorted((folder / "engines").glob("b[0-9]*")):
        if directory.name not in plan.names:
            yield Unused(directory, "the variant is no longer listed", _size(directory))
    going = set()
    for pattern in (
        "engines/store/*/*",
        "onnx/*.*",
        "onnx/r*/*",
        "reference/r*",
        "calibration/r*",
        "accuracy/b[0-9]*.json",
        "bench/b[0-9]*.json",
        "bench/baselines/r*",
    ):
        for path in sorted(folder.glob(pattern)):
            if path.relative_to(folder).as_posix() not in keep:
                going.add(path.absolute())
                yield Unused(path, "no listed variant needs it", _size(path))
    for entry in entries(cache):
        if not _stays(entry.engine, entry.users(), folder, going):
            yield Unused(entry.folder, "no work folder links this cached engine", _size(entry.folder))


def _stays(engine: Path | None, users: list[Path], folder: Path, going: set[Path]) -> bool:
    """Whether a cached engine keeps a link: in another work folder, or in this one once ``going`` is gone."""
    if engine is None:
        return False
    if any(user != folder.absolute() for user in users):
        return True
    links = (link for link in (folder / "engines/store").rglob(engine.name) if link.resolve() == engine.resolve())
    return any(link.absolute() not in going for link in links)


def _size(path: Path) -> int:
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(_size(inner) for inner in path.rglob("*") if not inner.is_dir())


def remove(unused: Unused) -> None:
    if unused.path.is_dir() and not unused.path.is_symlink():
        shutil.rmtree(unused.path)
    else:
        unused.path.unlink(missing_ok=True)
