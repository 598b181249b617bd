"""Compute one digest of a job's code: its script and every module of this package that decides its output.

Snakemake does not notice an edit of an imported module, so each rule has this digest among its ``params``. It covers
syntax trees without docstrings: comments, docstrings, layout, the Python version and the project's folder change
nothing. The digest and the imports of each file are remembered by its size and modification time. Pure.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sam3_runtime.core.files import digest_of, sha256_of, stamp_of
from sam3_runtime.core.remembered import Remembered
from sam3_runtime.engines import registry
from sam3_runtime.families import FAMILIES
from sam3_runtime.plan.carried_code import CARRIED

PACKAGE = Path(__file__).resolve().parent.parent
_ROOT = PACKAGE.name
MEMORY = Path(".snakemake/sam3-code.json")

# Messages, file names, locks and integrity; settings and records, whose values are in params and cache keys; what is
# only displayed, predicted or stored beside an engine.
_SHARED_PLUMBING = """
    __init__ families/__init__ families/base engines/__init__ engines/registry jobs/engine_cache
    core/errors core/files core/gpus core/hints records/integrity core/yaml_document core/remembered core/wording
    plan/carried_code plan/code_digest plan/paths plan/planning core/sections plan/settings plan/toolchain plan/variants
    jobs/gpu_lock jobs/job jobs/locking records/records deploy/configure deploy/overview deploy/pack
    records/memory engines/building/inspector engines/building/timing_cache
    engines/running/fake engines/running/tensorrt_logger
"""
PLUMBING = frozenset(_SHARED_PLUMBING.split()).union(
    f"{spec.code}/{name}" for spec in FAMILIES.values() for name in ("__init__", "spec", "settings")
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
"""Modules of which a chooser or a script imports several and uses one: the rule names that one."""

_DATA = {"engines/running/cuda": ("engines/running/kernels/steps.ptx",)}
"""Files other than Python modules that a module runs."""


@cache
def code_digest(script: Path, *modules: str) -> str:
    """Return the hex digest of ``script``, ``modules`` (such as ``export/vision``) and all their transitive imports.

    Plumbing and alternatives count only where ``modules`` names them. Code that was moved and not changed keeps its
    former digest (``carried_code.py``).
    """
    digest = digest_now(script, *modules)
    return CARRIED.get(digest, digest)


def digest_now(script: Path, *modules: str) -> str:
    """Return the same digest without the table of moved code."""
    found = code_of(script, *modules)
    shapes = {name: _facts(PACKAGE / f"{name}.py").shape for name in sorted(found)}
    data = {name: sha256_of(PACKAGE / name) for module in sorted(found) for name in _DATA.get(module, ())}
    digest = digest_of({"script": _facts(script).shape, "modules": shapes, "data": data})[:16]
    _memory.save()
    return digest


def code_of(script: Path, *modules: str) -> set[str]:
    """Return the modules that :func:`code_digest` covers."""
    found: set[str] = set()
    waiting = {*modules, *(_facts(script).imports - ALTERNATIVES - PLUMBING)}
    while waiting:
        name = waiting.pop()
        found.add(name)
        skipped = PLUMBING | ALTERNATIVES if name in _CHOOSERS else PLUMBING
        waiting |= _facts(PACKAGE / f"{name}.py").imports - skipped - found
    return found


class _Facts(NamedTuple):
    """The digest of a file's syntax tree, and the modules of this package that it imports."""

    shape: str
    imports: frozenset[str]


_memory = Remembered()


def remember(folder: Path) -> None:
    """Store the facts about code files in the work folder ``folder``, for the next process."""
    global _memory
    _memory = Remembered(folder / MEMORY, version=stamp_of(Path(__file__)))


def _find_facts(path: Path) -> tuple[str, list[str]]:
    tree = ast.parse(path.read_bytes())
    shape = hashlib.sha256("".join(_pieces(tree)).encode()).hexdigest()
    return shape, sorted(_imports(tree))


@cache
def _facts(path: Path) -> _Facts:
    shape, imports = _memory.fact(path, _find_facts)
    return _Facts(shape, frozenset(imports))


def _imports(tree: ast.Module) -> frozenset[str]:
    """Return the modules of this package that are imported anywhere in a file, as paths without a suffix."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = (name.partition(".")[2].replace(".", "/") for name in names if name.split(".")[0] == _ROOT)
    modules = (module for name in own for module in (name, f"{name}/__init__".lstrip("/")))
    return frozenset(module for module in modules if (PACKAGE / f"{module}.py").is_file())


def _pieces(node: Any) -> Iterator[str]:
    """Yield the syntax tree as text that is the same in every Python version.

    Unlike in ``ast.dump``, empty fields are left out, as those that newer versions add are empty.
    """
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
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
