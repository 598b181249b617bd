"""A machine that only runs: the README's commands make a wheel and install it in an environment without PyTorch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sam3_runtime import __version__
from sam3_runtime.media.sinks import write_image
from sam3_runtime.media.sources import load_image
from tests.workflow.conftest import PROJECT, WorkFolder

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
LOOK = """
import importlib.util, json, pathlib, sam3_runtime
absent = ("torch", "transformers", "timm", "snakemake", "onnx", "onnxscript", "matplotlib", "skimage")
there = [name for name in absent if importlib.util.find_spec(name)]
print(json.dumps([there, str(pathlib.Path(sam3_runtime.__file__).parent)]))
"""


def files_of(package: Path) -> set[str]:
    found = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.suffix != ".pyc"}


def blocks() -> tuple[str, str]:
    """What is to be typed where engines are built, and on the machine that only runs."""
    section = re.split(r"^## ", (PROJECT / "README.md").read_text(), flags=re.MULTILINE)
    (found,) = (text for text in section if text.startswith("On a machine that only runs"))
    here, there = re.findall(r"```bash\n(.*?)```", found, flags=re.DOTALL)
    return here.replace("b8_q50_r672", "b2_q50_r224"), there.replace("b8_q50_r672", "b2_q50_r224")


def bash(script: str, folder: Path, **environment: str) -> str:
    """Run ``script`` in ``folder`` as it stands, with this Python's commands first; no Python path leads elsewhere."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={**variables, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.mark.slow
def test_a_packed_variant_runs_from_the_wheel_without_pytorch(built: WorkFolder, tmp_path: Path) -> None:
    for name in SOURCES:
        shutil.copyfile(PROJECT / name, built.path / name)
    shutil.copytree(PROJECT / "sam3_runtime", built.path / "sam3_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    here, there = blocks()
    bash(here, built.path)

    elsewhere = tmp_path / "elsewhere"
    write_image(elsewhere / "photos/coffee.png", load_image("package:skimage/data/coffee.png"))
    for path in (*(built.path / "dist").iterdir(), built.path / "out.tar"):
        path.rename(elsewhere / path.name)
    assert "passed" in bash(there, elsewhere)
    (line,) = (elsewhere / "out/images.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == "coffee.png"
    assert (elsewhere / "out/images/coffee.png").is_file()

    (elsewhere / "look.py").write_text(LOOK)
    looked, shown = bash(
        ". .venv/bin/activate; python look.py; sam3-runtime --version; sam3-runtime info b2_q50_r224", elsewhere
    ).split("\n", 1)
    there_all_the_same, package = json.loads(looked)
    assert there_all_the_same == []
    assert Path(package).is_relative_to(elsewhere / ".venv")
    assert files_of(Path(package)) == files_of(PROJECT / "sam3_runtime"), "kernels too"
    assert shown.startswith(f"{__version__}\n")
    assert "b2_q50_r224: passed" in shown
