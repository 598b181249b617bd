"""Fixtures that several tests use: the small checkpoint, its graphs, a variant and a project for the fake backend."""

from __future__ import annotations

import base64
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sam3_runtime.core import gpus
from sam3_runtime.deploy.loading import load
from sam3_runtime.evaluation.data_set import ConceptData, read_concepts
from sam3_runtime.families.sam3.banks import Bank, extract
from sam3_runtime.families.sam3.parts import PARTS, PartName
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.projects import Project, read_project
from sam3_runtime.families.sam3.spec import SAM3
from sam3_runtime.plan.paths import Id
from tests.concepts import coco_file, write
from tests.fake_nvml import pynvml
from tests.fake_variant import write_fake_variant
from tests.once import once
from tests.projects import CLASSES, WriteProject, write_photo

if TYPE_CHECKING:
    from sam3_runtime.records.records import CheckpointLock

# Exports allocate by the million, beside modules that are there for good: searching less often saves a tenth of it.
gc.set_threshold(200_000, 20, 20)

GraphPath = Callable[..., Path]

PROJECT = Path(__file__).resolve().parent.parent
SMALL = 182
"""13 patches: no multiple of the demo's window of 8, and quick."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run whole workflows first, so that the processes of ``-n`` end together."""
    items.sort(key=lambda item: not item.path.is_relative_to(Path(__file__).parent / "workflow"))


ShowGpus = Callable[..., None]


@pytest.fixture
def show_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[ShowGpus]:
    """Shows GPUs to this process through a fake NVML (``fake_nvml/pynvml.py``); there is no driver until it is called.

    Each GPU is a dictionary of what differs from an H200.
    """
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    for name in ("CUDA_VISIBLE_DEVICES", "FAKE_GPUS"):
        monkeypatch.delenv(name, raising=False)
    gpus._nvml.cache_clear()

    def show(*listed: dict[str, object], driver: str = "580.65") -> None:
        monkeypatch.setenv("FAKE_GPUS", json.dumps(listed))
        monkeypatch.setenv("FAKE_DRIVER", driver)
        gpus._nvml.cache_clear()

    yield show
    gpus._nvml.cache_clear()


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The demo's small SAM3, in the layout of ``Sam3Model``."""
    pytest.importorskip("transformers")
    return PROJECT / "demo/checkpoint"


@pytest.fixture(scope="session")
def demo_lock(demo_checkpoint: Path) -> CheckpointLock:
    from sam3_runtime.families.sam3.export import checkpoint

    return checkpoint.lock(str(demo_checkpoint))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have in common; see :func:`tests.once.once`."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def of_the_demo(graph: str, part: PartName, lock: CheckpointLock) -> Path | None:
    """A float32 graph that `make demo` exported before, from the same checkpoint and with today's code."""
    from sam3_runtime.plan.code_digest import code_digest
    from sam3_runtime.records.records import CheckpointLock

    place, file = PROJECT / "demo/work/onnxruntime", f"onnx/{graph}.onnx"
    record = place / ".snakemake/metadata" / base64.b64encode(file.encode()).decode()
    if not (place / file).is_file() or not record.is_file():
        return None
    code = code_digest(PROJECT / "workflow_scripts/export_graph.py", *PARTS[part].code)
    is_todays = repr(code) in json.loads(record.read_bytes())["params"]
    is_same = CheckpointLock.read(place / "checkpoint.lock").digest == lock.digest
    return place / file if is_todays and is_same else None


@pytest.fixture(scope="session")
def graph_path(demo_lock: CheckpointLock, run_folder: Path) -> GraphPath:
    """Where a graph of the small checkpoint is, exported once in a test run, or by the demo. Not to be written to."""
    from sam3_runtime.families.sam3.export.graph import export_part

    def path_of(
        part: PartName,
        resolution: int = SMALL,
        queries: int = 50,
        attention: str = "fusable",
        precision: str = "fp32",
    ) -> Path:
        axes = PARTS[part].graph_axes({"resolution": resolution, "queries": queries})
        name = f"decoder_q{queries}" if part == "decoder" else part
        at = "_".join(str(each) for each in (axes.get("resolution"), attention, precision))

        is_the_demos = (attention, precision) == ("fusable", "fp32")
        if is_the_demos and (made := of_the_demo(str(Id(SAM3, PARTS[part], axes)), part, demo_lock)):
            return made
        path = run_folder / "graphs" / at / f"{name}.onnx"
        return once(path, lambda: export_part(part, demo_lock, path, attention=attention, precision=precision, **axes))

    return path_of


@pytest.fixture(scope="session")
def video_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as transformers' ``Sam3VideoModel`` saves them (facebook/sam3's layout), in several shards."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoint") / "sam3_video"
    command = [sys.executable, "-m", "demo.checkpoint", str(folder), "--shards", "3"]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
    return folder


@pytest.fixture
def write_project(tmp_path: Path) -> WriteProject:
    """Writes and reads ``shop.yaml``, beside a picture of a shelf."""
    write_photo(tmp_path / "photos/shelf.png")

    def written(text: str) -> Project:
        (tmp_path / "shop.yaml").write_text(text, encoding="utf-8")
        return read_project(tmp_path / "shop.yaml")

    return written


@pytest.fixture
def concept_file(tmp_path: Path) -> Path:
    """A small data set in COCO's format, in a folder with its images."""
    return write(tmp_path / "data", coco_file())


@pytest.fixture
def concepts(concept_file: Path) -> ConceptData:
    return read_concepts(concept_file)


@pytest.fixture
def fake_variant(tmp_path: Path) -> Path:
    write_fake_variant(tmp_path / "engines/b4_q20_r112")
    return tmp_path / "engines/b4_q20_r112"


@pytest.fixture
def fake_pipeline(fake_variant: Path) -> Iterator[Pipeline]:
    with load(fake_variant) as opened:
        yield opened


@pytest.fixture
def shop_bank(fake_pipeline: Pipeline, write_project: WriteProject) -> Bank:
    return extract(fake_pipeline, write_project(CLASSES))


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes small disks, of so many KiB; they may be mounted by root alone."""
    made: list[Path] = []

    def make(kib: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", str(folder)], check=True)
