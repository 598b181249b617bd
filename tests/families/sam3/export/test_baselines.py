"""transformers and torch.compile on the small checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sam3_runtime.families.sam3.export.baselines import Contender, measure_baseline  # noqa: E402
from sam3_runtime.families.sam3.export.checkpoint import lock  # noqa: E402
from sam3_runtime.families.sam3.export.weights import load_model  # noqa: E402
from sam3_runtime.graphs import baselines  # noqa: E402
from sam3_runtime.graphs.baselines import Options  # noqa: E402
from sam3_runtime.imaging.preprocess import preprocess  # noqa: E402
from sam3_runtime.records.measurements import Baseline  # noqa: E402
from sam3_runtime.records.records import Preprocessing  # noqa: E402

SETTINGS: dict[str, Any] = {"prompts": 2, "masks": 3, "warmup": 1, "windows": 2, "rounds": 1, "batches": [1, 3]}
RESOLUTION = 112


@pytest.fixture(scope="module")
def contender(demo_checkpoint: Path) -> Contender:
    with torch.no_grad():
        model = load_model(lock(str(demo_checkpoint)), RESOLUTION)
        return Contender(model, 2, 3, torch.device("cpu"), "float32")


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "IMAGE_SIZE", (30, 40))


def test_both_ways_at_every_batch(demo_checkpoint: Path, tmp_path: Path) -> None:
    """Compiled with torch's own tracer alone: its code generator is tried on the GPU machine."""
    location = str(demo_checkpoint)
    locked = lock(location).model_copy(update={"checkpoint": "work/checkpoint"})
    found = measure_baseline(
        locked, location, resolution=RESOLUTION, settings=SETTINGS, options=Options(backend="eager")
    )
    assert [way.name for way in found.ways] == ["transformers", "torch.compile"]
    for way in found.ways:
        assert (way.failed, way.attention) == (None, "sdpa")
        assert [run.batch for run in way.runs] == [1, 3]
        assert all(run.vision.n == run.end_to_end.n == 2 for run in way.runs)
    assert found.ways[0].compile_seconds is None
    assert found.ways[1].compile_seconds is not None
    assert (found.precision, found.checkpoint, found.clocks) == ("float32", "work/checkpoint", None)
    found.write(tmp_path / "r112.json")
    assert location not in (tmp_path / "r112.json").read_text()
    assert Baseline.read(tmp_path / "r112.json") == found


def test_a_compiler_that_fails_is_said(demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(Contender, "compile", fail)
    location = str(demo_checkpoint)
    found = measure_baseline(lock(location), location, resolution=RESOLUTION, settings=SETTINGS | {"batches": [1]})
    assert found.ways[0].runs
    assert (found.ways[1].failed, found.ways[1].runs) == ("RuntimeError", ())


@torch.no_grad()
def test_every_prompt_is_run_on_every_image(contender: Contender, monkeypatch: pytest.MonkeyPatch) -> None:
    images = list(np.random.default_rng(1).integers(0, 256, (3, 30, 40, 3), np.uint8))
    rows = []
    decode = Contender._decode

    def count(self: Contender, seen: Any, images: slice, texts: slice, size: tuple[int, int]) -> Any:
        rows.append((images.stop - images.start, texts.stop - texts.start))
        return decode(self, seen, images, texts, size)

    monkeypatch.setattr(Contender, "_decode", count)
    one = contender.answer(images[:1])
    assert rows == [(1, 2)]
    assert [mask.shape for mask in one] == [(3, 30, 40)] * 2
    three = contender.answer(images)
    assert rows[1:] == [(3, 1), (3, 1)]
    assert torch.equal(three[0], one[0])
    assert torch.equal(three[3], one[1])


@torch.no_grad()
def test_the_preprocessing_is_the_runtimes(contender: Contender) -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 200, 3), np.uint8)
    ours = preprocess([image], RESOLUTION, Preprocessing())
    assert np.abs(contender.preprocess([image]).numpy() - ours).max() <= 2 / 127.5
