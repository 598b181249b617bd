"""What a job's code is, as one digest: its script and every module of this package that decides what it writes.

Snakemake notices by itself neither that an imported module was edited nor that an edit changed nothing, so each rule
has this digest among its ``params``. It is of the syntax trees, without docstrings: a comment, a docstring or a new
layout of the lines changes nothing, and neither do the Python version and the folder that the project lies in. What a
file's digest and imports are is remembered by its size and time stamp, as every plan asks for them. Pure.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sam3_runtime.core.files import digest_of, sha256_of, stamp_of, write_atomically
from sam3_runtime.engines import registry
from sam3_runtime.families import FAMILIES
from sam3_runtime.plan.carried_code import CARRIED

PACKAGE = Path(__file__).resolve().parent.parent
_ROOT = PACKAGE.name
MEMORY = Path(".snakemake/sam3-code.json")

PLUMBING = frozenset(
    (
        # messages, file names, locks, and whether a file is what its record says
        *(
            "core/errors",
            "core/hints",
            "core/files",
            "plan/paths",
            "core/integrity",
            "jobs/job",
            "jobs/gpu_lock",
            "plan/code_digest",
            "plan/carried_code",
            "jobs/locking",
        ),
        *("core/wording", "engines/__init__", "engines/registry", "families/__init__", "families/base"),
        *(f"{spec.code}/{name}" for spec in FAMILIES.values() for name in ("__init__", "spec", "settings")),
        # settings and records: what stands in them is in params and cache keys by value
        *(
            "plan/settings",
            "plan/sections",
            "core/placed_yaml",
            "plan/variants",
            "plan/planning",
            "plan/toolchain",
            "core/gpus",
            "records/records",
            "deploy/configure",
            "deploy/overview",
        ),
        # what is shown, predicted or kept beside an engine that stays as it is
        *(
            "report/text",
            "measure/memory",
            "deploy/pack",
            "engines/cache",
            "engines/running/tensorrt_logger",
            "engines/building/inspector",
        ),
        *("engines/building/timing_cache", "engines/running/fake", "__init__"),
    )
)
"""Modules that jobs import and whose edit changes no graph, engine, verdict or measurement."""

_CHOOSERS = frozenset(("engines/building/__init__", "engines/running/__init__")) | {
    f"{spec.code}/export/graph" for spec in FAMILIES.values()
}
ALTERNATIVES = frozenset(
    (
        *(code for spec in FAMILIES.values() for part in spec.parts.values() for code in part.code),
        *("engines/running/cuda", "quantize/calibration_cache"),
        *registry.code_of(),
    )
).difference(_CHOOSERS)
"""The choosers, and the scripts, import several of these and use one: the rule names it."""

_DATA = {"engines/running/cuda": ("engines/running/kernels/steps.ptx",)}
"""Files that are no modules and that a module runs."""


@cache
def code_digest(script: Path, *modules: str) -> str:
    """Hex digest of ``script``, of ``modules`` (such as ``export/vision``) and of all that they import, transitively.

    Plumbing is left out unless it is named, and so are alternatives that were not chosen. Code that was moved and not
    changed keeps the digest that it had (``carried_code.py``).
    """
    digest = digest_now(script, *modules)
    return CARRIED.get(digest, digest)


def digest_now(script: Path, *modules: str) -> str:
    """The same of the code as it stands, wherever it was before."""
    found = code_of(script, *modules)
    shapes = {name: _facts(PACKAGE / f"{name}.py").shape for name in sorted(found)}
    data = {name: sha256_of(PACKAGE / name) for module in sorted(found) for name in _DATA.get(module, ())}
    digest = digest_of({"script": _facts(script).shape, "modules": shapes, "data": data})[:16]
    _MEMORY.save()
    return digest


def code_of(script: Path, *modules: str) -> set[str]:
    """The modules that :func:`code_digest` covers."""
    found = set(modules)
    waiting = [*modules, *_followed(_facts(script).imports - ALTERNATIVES)]
    while waiting:
        name = waiting.pop()
        found.add(name)
        imported = _facts(PACKAGE / f"{name}.py").imports
        if name in _CHOOSERS:
            imported = imported - ALTERNATIVES
        waiting += [each for each in _followed(imported) if each not in found]
    return found


def _followed(imported: Iterable[str]) -> Iterator[str]:
    return (name for name in imported if name not in PLUMBING)


class _Facts(NamedTuple):
    """What is asked of a file: the digest of its syntax tree, and the modules of this package that it imports."""

    shape: str
    imports: frozenset[str]


class _Memory:
    """Facts by path, size and time stamp, kept in a file once it is named; those of another ``code_digest.py`` and of a
    file that cannot be read or written are found again."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._known: dict[str, list[Any]] = {}
        self._is_new = False

    def open(self, path: Path) -> None:
        self._path = path
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(path.read_bytes())
            if known["of"] == stamp_of(Path(__file__)):
                self._known = dict(known["files"]) | self._known

    def facts(self, path: Path) -> _Facts:
        stamp = stamp_of(path)
        known = self._known.get(str(path))
        if known is None or known[:2] != stamp:
            tree = ast.parse(path.read_bytes())
            self._known[str(path)] = known = [*stamp, _shape_digest(tree), sorted(_imports(tree))]
            self._is_new = True
        return _Facts(known[2], frozenset(known[3]))

    def save(self) -> None:
        if self._path is None or not self._is_new or not self._path.parent.is_dir():
            return
        self._is_new = False
        with suppress(OSError):
            memory = {"of": stamp_of(Path(__file__)), "files": self._known}
            write_atomically(self._path, json.dumps(memory).encode())


_MEMORY = _Memory()


def remember(folder: Path) -> None:
    """Keep what is found of files in that work folder, for the next process."""
    _MEMORY.open(folder / MEMORY)


@cache
def _facts(path: Path) -> _Facts:
    return _MEMORY.facts(path)


def _imports(tree: ast.Module) -> frozenset[str]:
    """The modules of this package that are imported anywhere in a file, as paths without a suffix."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = (name.partition(".")[2].replace(".", "/") for name in names if name.split(".")[0] == _ROOT)
    places = (place for name in own for place in (name, f"{name}/__init__".lstrip("/")))
    return frozenset(place for place in places if (PACKAGE / f"{place}.py").is_file())


def _shape_digest(tree: ast.Module) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(tree):
        digest.update(piece.encode())
    return digest.hexdigest()


def _pieces(node: Any) -> Iterator[str]:
    """The syntax tree as text. ``ast.dump`` differs between Python versions; what is empty, as fields of newer versions
    are, is left out here."""
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name, value in ast.iter_fields(node):
            if name == "body" and _has_docstring(node):
                value = value[1:]
            if value is not None and value != [] and name != "kind":
                yield f"{name}="
                yield from _pieces(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for each in node:
            yield from _pieces(each)
        yield "]"
    else:
        yield f"{node!r},"


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
