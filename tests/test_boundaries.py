"""The layers: what the Snakefile imports is pure, the runtime needs no PyTorch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "sam3_runtime"
JOB_TIME = ("families.sam3.export", "graphs", "quantize", "engines.building", "engines.cache", "jobs")


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
        f"import sys, {', '.join(sorted(names))};"
        "print([name for name in ('numpy', 'torch', 'onnx', 'onnxruntime', 'cv2') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_runtime_never_imports_what_only_jobs_need(path: Path) -> None:
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    if name.startswith((*JOB_TIME, "cli.")):
        pytest.skip("job time")
    heavy = re.compile(r"(torch|transformers|snakemake|onnx|filelock)\b")
    job_time = re.compile(rf"sam3_runtime\.({'|'.join(JOB_TIME)})\b")
    wrong = {name for name in imported(path) if heavy.match(name) or job_time.match(name)}
    assert wrong == set()


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
        "checkpoint.write_tokenizer(lock, pathlib.Path(sys.argv[2]));"
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
