"""A job's code: covered whole, and changed by an edit of it alone."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3_runtime.core.remembered import Remembered
from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.families import FAMILIES
from sam3_runtime.families.base import FamilySpec
from sam3_runtime.plan import code_digest as module
from sam3_runtime.plan.code_digest import ALTERNATIVES, PACKAGE, PLUMBING, code_digest, code_of

PROJECT = PACKAGE.parent
SCRIPTS = PROJECT / "workflow_scripts"
WITHOUT_CODE = {
    "lock_checkpoint": "what is locked stays",
    "link_engine": "a link, whose ends are input and output",
    "judge": "has no output, so it always runs",
}
"""Scripts whose rules have no digest, and why."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, to be edited, that the digests are of."""
    copy = tmp_path / "sam3_runtime"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget() -> None:
    for function in (module.code_digest, module._facts):
        function.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    forget()


def digest(script: str, *modules: str) -> str:
    return code_digest(SCRIPTS / f"{script}.py", *modules)


def test_comments_docstrings_and_layout_change_nothing(package: Path) -> None:
    before = digest("build_engine", "engines/building/onnxruntime")
    builder = package / "engines/building/onnxruntime.py"
    edit(builder, '"""ONNX Runtime engines', '"""Other words: engines')
    edit(builder, "def build(", "# A comment.\n\n\ndef build(")
    edit(builder, "ort.SessionOptions()", "ort.SessionOptions(  )")
    assert digest("build_engine", "engines/building/onnxruntime") == before


@pytest.mark.parametrize(
    ("edited", "old", "new", "changes"),
    [
        ("engines/building/onnxruntime.py", "log_severity_level = 3", "log_severity_level = 2", "build"),
        ("engines/running/onnxruntime.py", "log_severity_level = 3", "log_severity_level = 2", "run"),
        ("engines/running/cuda_device.py", "_TABLES_KEPT = 16", "_TABLES_KEPT = 17", "run on a GPU"),
        ("engines/running/kernels/steps.ptx", ".version 6.3", ".version 6.4", "run on a GPU"),
        ("engines/building/tensorrt_recipe.py", "from __future__", "import re\nfrom __future__", "build on a GPU"),
        ("families/sam3/export/layers.py", "from __future__", "import re\nfrom __future__", "families/sam3/export"),
        ("core/wording.py", "from __future__", "import re\nfrom __future__", "nothing"),
    ],
)
def test_an_edit_changes_the_code_of_the_jobs_that_it_decides(
    package: Path, edited: str, old: str, new: str, changes: str
) -> None:
    def digests() -> dict[str, str]:
        return {
            "families/sam3/export": digest("export_graph", "families/sam3/export/vision"),
            "build": digest("build_engine", *BACKENDS["onnxruntime"].build_code),
            "build on a GPU": digest("build_engine", *BACKENDS["tensorrt"].build_code),
            "run": digest("verify_variant", *BACKENDS["onnxruntime"].run_code),
            "run on a GPU": digest("verify_variant", *BACKENDS["tensorrt"].run_code),
        }

    before = digests()
    edit(package / edited, old, new)
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {changes} - {"nothing"}


def test_one_part_is_exported_without_the_others_code(package: Path) -> None:
    before = {part: digest("export_graph", f"families/sam3/export/{part}") for part in ("vision", "decoder")}
    edit(package / "families/sam3/export/geometry.py", "from __future__", "import re\nfrom __future__")
    assert digest("export_graph", "families/sam3/export/vision") == before["vision"]
    assert (
        digest("export_graph", "families/sam3/export/decoder") != before["decoder"]
    )  # whose layers those of the geometry encoder are


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_everything_that_runs_on_a_gpu_counts(family: FamilySpec) -> None:
    """Of what the rules name: see :meth:`Plan.running_modules`."""
    for script in ("verify_variant", "bench_variant", "evaluate_variant"):
        found = code_of(SCRIPTS / f"{script}.py", *BACKENDS["tensorrt-rtx"].run_code, f"{family.code}/runtime")
        assert found >= {
            "engines/running/__init__",
            "engines/running/base",
            "engines/running/tensorrt_rtx",
            "engines/running/tensorrt",
        }
        assert found >= {
            "engines/running/cuda",
            "engines/running/cuda_device",
            "engines/running/cuda_graphs",
            "engines/running/page_locked",
        }
        assert "engines/running/onnxruntime" not in found


@pytest.mark.parametrize("names", [PLUMBING, ALTERNATIVES])
def test_the_modules_that_are_named_are_there(names: frozenset[str]) -> None:
    assert [name for name in names if not (PACKAGE / f"{name}.py").is_file()] == []


def test_every_rule_has_the_digest_of_its_own_script() -> None:
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "rules").glob("*.smk")))
    text = text.replace("code=export_code,", 'code=code("export_graph"),')
    rules = re.split(r"\n(?:use )?rule ", text)[1:]
    scripts = {}
    for rule in rules:
        script = re.search(r"workflow_scripts/(\w+)\.py", rule)
        if script:
            said = re.search(r'code=code\("(\w+)"', rule)
            assert (said[1] if said else None) == (None if script[1] in WITHOUT_CODE else script[1]), rule
            scripts[script[1]] = rule
    assert scripts.keys() | {"judge"} == {path.stem for path in SCRIPTS.glob("*.py")}


def test_only_choosers_import_by_a_computed_name() -> None:
    """A module that is imported by name is seen by nobody who reads the syntax tree."""
    computed = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                computed.add(path.relative_to(PACKAGE).as_posix())
    nvidias_library = {"engines/running/tensorrt.py", "engines/building/tensorrt.py"}
    choosers = {"families/__init__.py", "engines/running/__init__.py", "engines/building/__init__.py"}
    assert computed == choosers | nvidias_library


CHOSEN = {
    "exporter": ("PLAN.exporting_module(", "eight_bit_part.code", "export_code"),
    "runtime": ("running_modules()",),
}
"""What gives a family's modules, and what the code of a rule has then."""


def test_rules_name_what_their_scripts_have_a_family_choose() -> None:
    """:func:`exporter` and :func:`runtime` import by a computed name: the rules say which module it is."""
    rules = "\n".join(path.read_text() for path in sorted((PROJECT / "rules").glob("*.smk")))
    asked = {}
    for rule in re.split(r"\n(?:use )?rule ", rules)[1:]:
        script, said = re.search(r"workflow_scripts/(\w+)\.py", rule), re.search(r" code=(.+),\n", rule)
        if script and said:
            path = SCRIPTS / f"{script[1]}.py"
            files = [path, *(PACKAGE / f"{name}.py" for name in code_of(path))]
            asked[script[1]] = {name for file in files for name in taken_of_families(file) & CHOSEN.keys()}
            for name in asked[script[1]]:
                assert any(module in said[1] for module in CHOSEN[name]), (script[1], name, said[1])
    assert {script for script, names in asked.items() if "runtime" in names} == {
        "verify_variant", "bench_variant", "evaluate_variant",
    }  # fmt: skip
    assert {script for script, names in asked.items() if "exporter" in names} == {
        "copy_asset", "export_graph", "compute_reference", "compute_accuracy", "measure_scales", "measure_baseline",
    }  # fmt: skip


def taken_of_families(path: Path) -> set[str]:
    """What a file imports of the package of families itself."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes if node.module == "sam3_runtime.families" for alias in node.names}


def test_what_was_found_is_remembered_and_an_edit_is_seen(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_memory", Remembered())
    (tmp_path / ".snakemake").mkdir()
    module.remember(tmp_path)
    before = digest("build_engine", "engines/building/onnxruntime")
    assert (tmp_path / module.MEMORY).is_file()

    def unread(*_: object) -> None:
        raise AssertionError("it is read again")

    forget()
    monkeypatch.setattr(module, "_memory", Remembered())
    module.remember(tmp_path)
    monkeypatch.setattr(ast, "parse", unread)
    assert digest("build_engine", "engines/building/onnxruntime") == before
    monkeypatch.undo()
    monkeypatch.setattr(module, "PACKAGE", package)
    module.remember(tmp_path)
    edit(package / "engines/building/onnxruntime.py", "log_severity_level = 3", "log_severity_level = 2")
    assert digest("build_engine", "engines/building/onnxruntime") != before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"of": null, "core/files": {}}'])
def test_a_memory_that_is_damaged_is_written_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(module, "_memory", Remembered())
    (tmp_path / ".snakemake").mkdir()
    (tmp_path / module.MEMORY).write_text(content)
    module.remember(tmp_path)
    assert package.is_dir()
    assert len(digest("build_engine", "engines/building/onnxruntime")) == 16
    assert len((tmp_path / module.MEMORY).read_text()) > 1000
