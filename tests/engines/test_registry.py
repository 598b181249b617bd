"""The registry of backends is the one place that knows them."""

from __future__ import annotations

import ast
from importlib import metadata
from pathlib import Path

import pytest

from sam3_runtime.engines.registry import BACKENDS, BUILT, BackendSpec

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "sam3_runtime"
REGISTRY = PACKAGE / "engines/registry.py"
EXEMPT = {
    PACKAGE / "quantize/calibration_cache.py": "a field's name in the key of calibration caches, which stays as it is",
    **dict.fromkeys(PACKAGE.glob("families/*/fake.py"), "writes a family's variant for the fake backend"),
}
"""Modules that spell a backend's name, and why."""


def spelled(path: Path) -> set[str]:
    """The names of backends that a file has as text of its own, docstrings not counted."""
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in BACKENDS}


def own(spec: BackendSpec) -> set[Path]:
    return {PACKAGE / f"{name}.py" for name in (*spec.build_code[:1], *spec.run_code[:1])}


def test_no_other_module_spells_a_backends_name() -> None:
    found = {}
    for path in (*PACKAGE.rglob("*.py"), *(PROJECT / "workflow_scripts").glob("*.py")):
        names = {name for name in spelled(path) if path not in own(BACKENDS[name])}
        if names and path not in {*EXEMPT, REGISTRY}:
            found[str(path.relative_to(PROJECT))] = names
    assert found == {}
    assert spelled(REGISTRY) >= set(BACKENDS)


def test_no_rule_spells_a_backends_name() -> None:
    rules = sorted((PROJECT / "rules").glob("*.smk"))
    assert len(rules) >= 8
    assert [path.name for path in rules for name in BACKENDS if f'"{name}"' in path.read_text()] == []


@pytest.mark.parametrize("spec", BACKENDS.values(), ids=list(BACKENDS))
def test_what_an_entry_names_is_there(spec: BackendSpec) -> None:
    for name in (*spec.build_code, *spec.run_code):
        assert (PACKAGE / f"{name}.py").is_file(), name
    defined = {node.name for node in ast.parse((PACKAGE / f"{spec.run_code[0]}.py").read_text()).body
               if isinstance(node, ast.FunctionDef)}  # fmt: skip
    assert {"check_engine", "open_engine"} <= defined
    if spec.is_built:
        assert all((spec.module, spec.distributions, spec.install))
        assert spec.precision in spec.precisions
        building = ast.parse((PACKAGE / f"{spec.build_code[0]}.py").read_text()).body
        assert "build" in {node.name for node in building if isinstance(node, ast.FunctionDef)}


def test_extras_that_entries_name_are_those_of_the_package() -> None:
    extras = set(metadata.metadata("sam3-runtime").get_all("Provides-Extra") or [])
    named = {spec.install.partition("[")[2].partition("]")[0] for spec in BACKENDS.values() if spec.install}
    assert named - {""} <= extras
    assert len(named) >= 3


def test_releases_decide_what_8_bits_they_take() -> None:
    tensorrt = BACKENDS["tensorrt"]
    assert [tensorrt.builds_fp8(release) for release in ((8, 6, 1), (10, 0), ())] == [False, True, True]
    assert [tensorrt.wants_float32_scales(release) for release in ((8, 6, 1), (10, 0), ())] == [True, False, False]
    assert [tensorrt.takes_flags(release) for release in ((10, 13), (11, 0))] == [True, False]
    assert not BACKENDS["onnxruntime"].builds_fp8()
    assert not BACKENDS["onnxruntime"].takes_flags((1, 32))


def test_engines_are_built_for_all_but_the_fake() -> None:
    assert BUILT == ("onnxruntime", "tensorrt", "tensorrt-rtx")
