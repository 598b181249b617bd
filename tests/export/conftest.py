"""Exported graphs of the small checkpoint: each is made once in a session, whichever test asks for it first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from sam3_runtime.config import CheckpointLock
from sam3_runtime.contract import PARTS, PartName
from sam3_runtime.export import checkpoint
from sam3_runtime.export.graph import export_part
from sam3_runtime.export.parity import Graph
from sam3_runtime.export.scene import Scene

GraphPath = Callable[..., Path]
SMALL = 182
"""13 patches: no multiple of the demo's window of 8, and quick."""


@pytest.fixture(scope="session")
def demo_lock(demo_checkpoint: Path) -> CheckpointLock:
    return checkpoint.lock(str(demo_checkpoint))


@pytest.fixture(scope="session")
def graph_path(demo_lock: CheckpointLock, tmp_path_factory: pytest.TempPathFactory) -> GraphPath:
    folder = tmp_path_factory.mktemp("graphs")

    def path_of(
        part: PartName,
        resolution: int = SMALL,
        queries: int = 50,
        attention: str = "fusable",
        precision: str = "fp32",
    ) -> Path:
        needs = PARTS[part].depends_on
        at = resolution if "resolution" in needs else None
        kept = queries if "queries" in needs else None
        path = folder / f"{at}_{kept}_{attention}_{precision}" / f"{part}.onnx"
        if not path.exists():
            export_part(part, demo_lock, path, resolution=at, queries=kept, attention=attention, precision=precision)
        return path

    return path_of


@pytest.fixture(scope="session")
def graph(graph_path: GraphPath) -> Callable[..., Graph]:
    made: dict[Path, Graph] = {}

    def graph_of(*arguments: object, **named: object) -> Graph:
        path = graph_path(*arguments, **named)
        return made.setdefault(path, made.get(path) or Graph(path))

    return graph_of


@pytest.fixture(scope="session")
def scene(demo_lock: CheckpointLock) -> Callable[[int], Scene]:
    made: dict[int, Scene] = {}

    def scene_of(resolution: int) -> Scene:
        if resolution not in made:
            made[resolution] = Scene.of(demo_lock, resolution)
        return made[resolution]

    return scene_of


_EXPORT_ALL = """
import sys
from pathlib import Path
from sam3_runtime.export import checkpoint
from sam3_runtime.export.graph import export_part
lock, folder, size = checkpoint.lock(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
export_part("text-encoder", lock, folder / "text-encoder.onnx")
export_part("vision-encoder", lock, folder / "vision-encoder.onnx", resolution=size)
export_part("geometry-encoder", lock, folder / "geometry-encoder.onnx", resolution=size)
export_part("decoder", lock, folder / "decoder.onnx", resolution=size, queries=50)
typed = folder / "fp16"
export_part("vision-encoder", lock, typed / "vision-encoder.onnx", resolution=size, precision="fp16")
export_part("geometry-encoder", lock, typed / "geometry-encoder.onnx", resolution=size, precision="fp16")
"""


@pytest.fixture(scope="session", autouse=True)
def elsewhere(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """A folder with all four parts, exported by another process, which starts at once and is waited for when asked."""
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-c", _EXPORT_ALL, str(demo_checkpoint), str(folder), str(SMALL)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    @cache
    def finished() -> Path:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        return folder

    yield finished
    if process.poll() is None:
        process.kill()
        process.wait()
