"""The layers: what the Snakefile imports is pure, the runtime needs no PyTorch, and only SAM3's folder knows SAM3."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from sam3_runtime.engines.registry import BACKENDS
from sam3_runtime.families import FAMILIES
from sam3_runtime.families.sam3.spec import SAM3

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "sam3_runtime"
JOB_TIME = ("families/*/export", "graphs", "quantize", "engines/building", "jobs")
"""Folders, and a module: what only jobs run. All else runs where a variant does."""
HEAVY = {"torch", "transformers", "timm", "onnx", "snakemake", "filelock"}
CODE = [spec.code for spec in FAMILIES.values()]
CLEANING = {"cli/main": {"jobs"}}
"""Commands that clean up after jobs: they import these when they run (see below)."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path, top_level: bool = False) -> set[str]:
    """Modules that a file imports: anywhere, or only those that importing it imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place_of(path: Path) -> str:
    """Of a module in the package: ``families/sam3/gate``."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def own_of(names: Iterable[str]) -> Iterator[str]:
    """Those of this package, as places in it."""
    return (name.partition(".")[2].replace(".", "/") for name in names if name.partition(".")[0] == "sam3_runtime")


def under(patterns: Iterable[str], place: str) -> set[str]:
    """The folders and modules among ``patterns`` that a module, or a name in it, lies in."""
    shapes = {pattern: pattern.replace("*", "[^/]+") for pattern in patterns}
    return {pattern for pattern, shape in shapes.items() if re.fullmatch(rf"{shape}(/.*)?", place)}


def test_what_the_snakefile_imports_is_pure() -> None:
    text = "".join(path.read_text() for path in (PROJECT / "rules").glob("*.smk"))
    names: set[str] = set()
    for package, listed in re.findall(r"^from (sam3_runtime[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
        names.add(package)
        for name in re.findall(r"\w+", listed):
            if (PROJECT / f"{package}.{name}".replace(".", "/")).with_suffix(".py").is_file():
                names.add(f"{package}.{name}")
    assert names >= {"sam3_runtime.plan.planning", "sam3_runtime.jobs.job"}
    program = (
        f"import sys, {', '.join(sorted(names))}; sam3_runtime.plan.settings.json_schema();"
        "print([name for name in ('numpy', 'torch', 'onnx', 'onnxruntime', 'cv2') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_runtime_never_imports_what_only_jobs_need(path: Path) -> None:
    place = place_of(path)
    if under(JOB_TIME, place):
        pytest.skip("job time")
    names = imported(path)
    allowed = {library for spec in BACKENDS.values() if place in spec.run_code for library in spec.run_imports}
    assert HEAVY & {name.partition(".")[0] for name in names} <= allowed
    assert {pattern for name in own_of(names) for pattern in under(JOB_TIME, name)} == CLEANING.get(place, set())


def test_every_place_of_job_time_is_there() -> None:
    places = [place_of(path) for path in modules()]
    assert [pattern for pattern in JOB_TIME if not any(under([pattern], place) for place in places)] == []
    assert {code for code in CODE for place in places if under([f"{code}/export"], place)} == set(CODE)


SAM3S = re.compile(r"vision-encoder|text-encoder|geometry-encoder|fpn_feat|pred_logits|ModelDims")
"""Its parts, tensors and dimensions, wherever they stand in a text."""
WORDS = {"decoder", "queries"}
"""A part, and the axis that is its own: English, unless they stand alone."""
SPELLED = {
    "engines/running/cuda_device": "resizes masks where they lie: a local name",
}
"""Modules outside its folder that have SAM3's names, and why."""


def test_only_its_own_folder_spells_sam3s_names() -> None:
    """In code, that is: docstrings and comments may say what they like."""
    found = {}
    for path in modules():
        if not under([SAM3.code], place_of(path)):
            texts = texts_of(ast.parse(path.read_text()))
            if names := {text for text in texts if text in WORDS or SAM3S.search(text)}:
                found[place_of(path)] = names
    assert found.keys() == SPELLED.keys(), found


def texts_of(tree: ast.Module) -> set[str]:
    """The names, attributes, parameters and texts of a module, docstrings not counted."""
    statements = (node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    documented = {id(node.value) for node in statements if isinstance(node.value, ast.Constant)}
    nodes = [node for node in ast.walk(tree) if id(node) not in documented]
    found = (getattr(node, field, None) for node in nodes for field in ("id", "attr", "arg", "name", "value"))
    return {text for text in found if isinstance(text, str)}


WITH_PROMPTS = {
    "api": "the public API",
    "cli/bank": "commands about projects and banks",
    "cli/main": "likewise: prints the schema of projects",
    "cli/show": "likewise: shows a bank",
    "cli/stream": "detects prompts and the classes of a bank",
    "evaluation/data_set": "pictures and phrases, boxes of prompts",
    "evaluation/questions": "prompts of a data set",
    "streams/benchmark": "times a bank's classes on cameras",
    "streams/outputs": "colours of a bank's classes",
}
"""Modules that work with prompts, banks or their detections, which are SAM3's, and import it by its name."""


def test_whoever_imports_a_family_by_its_name_is_listed() -> None:
    """All else asks :mod:`sam3_runtime.families` for the one that a record or a checkpoint names; nor does a family
    import another."""
    found = {}
    for path in modules():
        taken = {code for name in own_of(imported(path)) for code in under(CODE, name)}
        if others := taken - under(CODE, place_of(path)):
            found[place_of(path)] = others
    assert found == {"families/__init__": set(CODE)} | {place: {SAM3.code} for place in WITH_PROMPTS}


def test_the_command_line_imports_job_time_modules_only_when_asked() -> None:
    heavy = "('torch', 'numpy', 'onnx', 'filelock')"
    program = f"import sys, sam3_runtime.cli.main; print([n for n in {heavy} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_checkpoint_is_locked_without_importing_pytorch(tmp_path: Path) -> None:
    """Seconds, before anything else can begin."""
    program = (
        "import pathlib, sys; from sam3_runtime.families.sam3.export import checkpoint;"
        "from sam3_runtime.jobs import locking;"
        "lock = locking.lock_once(pathlib.Path(sys.argv[1]), 'demo/checkpoint', None, 'demo/checkpoint');"
        "checkpoint.write_asset(lock, 'tokenizer.json', pathlib.Path(sys.argv[2]));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "checkpoint.lock"), str(tmp_path / "tokenizer.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    assert run.stdout.strip() == "[]"
    assert (tmp_path / "tokenizer.json").is_file()


def test_scripts_and_rules_stay_small() -> None:
    scripts = {path.name: len(path.read_text().splitlines()) for path in (PROJECT / "workflow_scripts").glob("*.py")}
    text = "\n\n\n".join(path.read_text() for path in sorted((PROJECT / "rules").glob("*.smk")))
    bodies = [part.partition("\n\n\n")[0] for part in re.split(r"\n(?=(?:use )?rule )", text)[1:]]
    rules = {body.partition("\n")[0]: len(body.rstrip().splitlines()) for body in bodies}
    assert len(scripts) >= 15
    assert 22 <= len(rules) <= 26, "one a stage"
    assert {name: lines for name, lines in scripts.items() if lines > 30} == {}
    assert {name: lines for name, lines in rules.items() if lines > 25} == {}
    assert len((PROJECT / "Snakefile").read_text().splitlines()) <= 50
