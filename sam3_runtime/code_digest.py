"""What a job's code is, as one digest: its script and every module of this package that decides what it writes.

Snakemake notices by itself neither that an imported module was edited nor that an edit changed nothing, so each rule
has this digest among its ``params``. It is of the syntax trees, without docstrings: a comment, a docstring or a new
layout of the lines changes nothing, and neither do the Python version and the folder that the project lies in. Pure.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sam3_runtime.engines import registry
from sam3_runtime.files import digest_of, sha256_of

PACKAGE = Path(__file__).resolve().parent
_ROOT = PACKAGE.name

PLUMBING = frozenset(
    (
        # messages, file names, locks, and whether a file is what its record says
        *("errors", "hints", "files", "paths", "integrity", "jobs", "gpu_lock", "code_digest", "export/locking"),
        *("wording", "engines/__init__", "engines/registry"),
        # settings and records: what stands in them is in params and cache keys by value
        *("settings", "placed_yaml", "variants", "planning", "toolchain", "gpus", "config", "configure", "overview"),
        # what is shown, predicted or kept beside an engine that stays as it is
        *(
            "report_text",
            "memory",
            "pack",
            "engine_cache",
            "backends/tensorrt_logger",
            "builders/inspector",
            "builders/tensorrt_progress",
        ),
        *("builders/timing_cache", "backends/fake", "__init__"),
    )
)
"""Modules that jobs import and whose edit changes no graph, engine, verdict or measurement."""

ALTERNATIVES = frozenset(
    (
        *("export/vision", "export/text", "export/geometry", "export/decoder"),
        *("backends/cuda", "quantize/calibration_cache"),
        *registry.code_of(),
    )
)
_CHOOSERS = frozenset(("export/graph", "builders/__init__", "backends/__init__"))
"""These, and the scripts, import several of :data:`ALTERNATIVES` and use one: the rule names it."""

_DATA = {"backends/cuda": ("backends/kernels/steps.ptx",)}
"""Files that are no modules and that a module runs."""


@cache
def code_digest(script: Path, *modules: str) -> str:
    """Hex digest of ``script``, of ``modules`` (such as ``export/vision``) and of all that they import, transitively.

    Plumbing is left out unless it is named, and so are alternatives that were not chosen.
    """
    found = code_of(script, *modules)
    shapes = {name: _shape_digest(PACKAGE / f"{name}.py") for name in sorted(found)}
    data = {name: sha256_of(PACKAGE / name) for module in sorted(found) for name in _DATA.get(module, ())}
    return digest_of({"script": _shape_digest(script), "modules": shapes, "data": data})[:16]


def code_of(script: Path, *modules: str) -> set[str]:
    """The modules that :func:`code_digest` covers."""
    found = set(modules)
    waiting = [*modules, *_followed(_imports(script) - ALTERNATIVES)]
    while waiting:
        name = waiting.pop()
        found.add(name)
        imported = _imports(PACKAGE / f"{name}.py")
        if name in _CHOOSERS:
            imported = imported - ALTERNATIVES
        waiting += [each for each in _followed(imported) if each not in found]
    return found


def _followed(imported: Iterable[str]) -> Iterator[str]:
    return (name for name in imported if name not in PLUMBING)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@cache
def _imports(path: Path) -> frozenset[str]:
    """The modules of this package that a file imports, anywhere in it, as paths without a suffix."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = (name.partition(".")[2].replace(".", "/") for name in names if name.split(".")[0] == _ROOT)
    places = (place for name in own for place in (name, f"{name}/__init__".lstrip("/")))
    return frozenset(place for place in places if (PACKAGE / f"{place}.py").is_file())


@cache
def _shape_digest(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(_tree(path)):
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
