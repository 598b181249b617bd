"""Work folders for the tests of the workflow, and the commands that act on them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sam3_runtime.records.records import Toolchain
from tests.once import once

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "defaults": {"batch": 2, "queries": 50},
    "variants": [{"resolution": [224]}],
    "reference": {"source": ["package:skimage/data/coffee.png"], "prompts": ["cup"]},
    "calibration": {"source": ["package:skimage/data/coffee.png", "package:skimage/data/chelsea.png"], "frames": 2},
    "bench": {
        "source": ["package:skimage/data/coffee.png"],
        "prompts": ["cup"],
        "cameras": [1],
        "rounds": 2,
        "windows": 2,
    },
}


HALF = {"defaults": {"batch": 2, "queries": 20}, "variants": [{"resolution": 112}]}


class WorkFolder:
    """A folder with a ``variants.yaml``, and Snakemake run in it with the rules and code of ``project``."""

    def __init__(self, path: Path, project: Path = PROJECT) -> None:
        self.path = path
        self.project = project

    def write(self, **changes: object) -> None:
        """Write ``variants.yaml``: what the tests build, with sections replaced."""
        settings = {**yaml.safe_load((self.path / "settings.yaml").read_text()), **changes}
        (self.path / "variants.yaml").write_text(yaml.safe_dump(settings))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--snakefile", str(self.project / "Snakefile"), *arguments]

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("--directory", str(self.path), *arguments),
            cwd=self.project,
            env={**os.environ, "PYTHONPATH": str(self.project), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )

    def planned(self, *arguments: str, **environment: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans."""
        run = self.snakemake("--dry-run", *arguments, **environment)
        if run.returncode != 0:
            raise AssertionError(run.stdout)
        return self.jobs_of(run.stdout)

    def jobs_of(self, said: str) -> dict[str, int]:
        """How many jobs of each rule Snakemake says that there are."""
        table = said.partition("Job stats:")[2].split("\n\n")[0]
        rows = re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)
        return {rule: int(count) for rule, count in rows if rule not in ("job", "total")}

    def copy(self, folder: Path) -> WorkFolder:
        """A copy in ``folder``, links and time stamps as they are."""
        shutil.copytree(self.path, folder / "work", symlinks=True)
        return WorkFolder(folder / "work")

    def half_written(self) -> list[Path]:
        return [path for path in self.path.rglob("*.part") if ".snakemake" not in path.parts]


@pytest.fixture(scope="session")
def make_folder(demo_checkpoint: Path) -> Callable[[Path], WorkFolder]:
    def make(path: Path) -> WorkFolder:
        path.mkdir(parents=True)
        (path / "settings.yaml").write_text(yaml.safe_dump({"model": {"checkpoint": str(demo_checkpoint)}, **SETTINGS}))
        folder = WorkFolder(path)
        folder.write()
        return folder

    return make


@pytest.fixture
def fresh(tmp_path: Path, make_folder: Callable[[Path], WorkFolder]) -> WorkFolder:
    """A work folder in which nothing was built."""
    return make_folder(tmp_path / "work")


def take_graphs_of_the_demo(place: Path) -> None:
    """Where `make demo` was run, it has exported the same graphs. Those of other code are due again, as anywhere."""
    demo = PROJECT / "demo/work/onnxruntime"
    if not (demo / "onnx/r224/decoder_q50.onnx").is_file():
        return
    for name in ("checkpoint.lock", "onnx", ".snakemake/metadata"):
        source, target = demo / name, place / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    for other in (path for path in (place / "onnx").glob("r*") if path.name != "r224"):
        shutil.rmtree(other)


@pytest.fixture(scope="session")
def built_once(run_folder: Path, make_folder: Callable[[Path], WorkFolder]) -> WorkFolder:
    """A work folder in which ``b2_q50_r224`` was built, verified and benched. Not to be written to."""
    place = run_folder / "built/work"

    def build() -> None:
        shutil.rmtree(place, ignore_errors=True)
        folder = make_folder(place)
        take_graphs_of_the_demo(place)
        run = folder.snakemake("bench_all")
        if run.returncode != 0:
            raise AssertionError(run.stdout)

    return WorkFolder(once(place, build))


@pytest.fixture(scope="session")
def exported_once(run_folder: Path, make_folder: Callable[[Path], WorkFolder]) -> WorkFolder:
    """A work folder with the float16 graphs and the reference of ``b2_q20_r112``, which either TensorRT builds from.
    Not to be written to."""
    place = run_folder / "exported/work"

    def export() -> None:
        shutil.rmtree(place, ignore_errors=True)
        folder = make_folder(place)
        gpu = {"gpu": "NVIDIA H200", "compute_capability": "9.0"}
        Toolchain(backend="tensorrt", version="8.6.1", **gpu).write(place / "toolchain.json")  # it only plans here
        folder.write(backend="tensorrt", **HALF)
        run = folder.snakemake("export_all")
        if run.returncode != 0:
            raise AssertionError(run.stdout)
        (place / "toolchain.json").unlink()

    return WorkFolder(once(place, export))


@pytest.fixture
def own_project(tmp_path: Path) -> Path:
    """A copy of the project, to be edited, in another folder."""
    copy = tmp_path / "elsewhere/project"
    shutil.copytree(PROJECT / "sam3_runtime", copy / "sam3_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("rules", "workflow_scripts", "profiles", "Snakefile"):
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / name)
    return copy


@pytest.fixture
def built(tmp_path: Path, built_once: WorkFolder) -> WorkFolder:
    """A copy of :func:`built_once`, for this test alone."""
    return built_once.copy(tmp_path)
