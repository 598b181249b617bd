"""Sessions of the small checkpoint's exported graphs, scenes for them, and exports by another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from sam3_runtime.families.sam3.export.parity import Graph
from sam3_runtime.families.sam3.export.scene import Scene
from sam3_runtime.families.sam3.parts import PartName
from sam3_runtime.records.records import CheckpointLock
from tests.conftest import SMALL


@pytest.fixture(scope="session")
def graph(graph_path: Callable[..., Path]) -> Callable[..., Graph]:
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


_EXPORT = """
import sys
from pathlib import Path
from sam3_runtime.families.sam3.parts import PARTS
from sam3_runtime.families.sam3.export import checkpoint
from sam3_runtime.families.sam3.export.graph import export_part
lock, folder, size, precision = checkpoint.lock(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for part in sys.argv[5:]:
    axes = PARTS[part].graph_axes({"resolution": size, "queries": 50})
    export_part(part, lock, folder / f"{part}.onnx", precision=precision, **axes)
"""


@pytest.fixture(scope="session")
def elsewhere(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Has another process export parts at :data:`SMALL`, and gives their folder."""

    @cache
    def exported(precision: str, *parts: PartName) -> Path:
        folder = tmp_path_factory.mktemp("elsewhere")
        command = [sys.executable, "-c", _EXPORT, str(demo_checkpoint), str(folder), str(SMALL), precision, *parts]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return folder

    return exported
