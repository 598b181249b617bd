"""The benchmark on the fake backend: what is measured, and that a device is waited for and told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.engines.running.host import HostDevice
from sam3_runtime.families.sam3.settings import BenchSection
from sam3_runtime.measure import benchmark as module
from sam3_runtime.measure.benchmark import benchmark
from sam3_runtime.records.measurements import BenchResult, Reading
from sam3_runtime.records.memory import MIB
from tests.fake_variant import write_fake_variant

IMAGE = np.full((40, 60, 3), 90, np.uint8)
STAGES = {"preprocess", "vision", "prompt", "decoder", "postprocess"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_fake_variant(tmp_path / "b4_q20_r112")
    return tmp_path / "b4_q20_r112"


def settings(**changes: Any) -> dict[str, Any]:
    small = {"device": "somewhere", "cameras": [1, 3], "warmup": 1, "rounds": 2, "windows": 3}
    return BenchSection().model_dump() | small | changes


def test_rounds_stages_and_parts(directory: Path) -> None:
    found = benchmark(directory, settings(), [IMAGE])
    assert [camera.cameras for camera in found.cameras] == [1, 3]
    for camera in found.cameras:
        assert set(camera.stages) == STAGES
        assert (camera.end_to_end.n, camera.stages["vision"].n, len(camera.samples_ms)) == (6, 2, 6)
        assert camera.masks_kept > 0
    calls = [(part.part, part.images, part.prompts) for part in found.parts]
    assert calls == [
        ("text-encoder", 0, 1), ("text-encoder", 0, 4), ("vision-encoder", 1, 0), ("vision-encoder", 4, 0),
        ("geometry-encoder", 1, 1), ("geometry-encoder", 1, 4), ("decoder", 1, 1), ("decoder", 1, 4), ("decoder", 4, 4),
    ]  # fmt: skip
    assert all(part.latency.n == 6 and part.latency.median > 0 for part in found.parts)
    assert (found.device_memory, found.clocks, found.driver, found.without) == (None, None, None, {})
    assert BenchResult.model_validate_json(found.model_dump_json()) == found


def test_parts_can_be_left_out(directory: Path) -> None:
    assert benchmark(directory, settings(parts=False), [IMAGE]).parts == ()


def test_on_a_gpu_memory_clocks_and_graphs_are_measured(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that says that it has memory of its own is one whose borders are waited for."""
    waits = []
    asked = []
    opened = module.load

    def load(path: Path, **options: Any) -> Any:
        asked.append(options.get("cuda_graphs", True))
        return opened(path, **options)

    monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(HostDevice, "memory", lambda _: (6000 * MIB, 8000 * MIB))
    monkeypatch.setattr(HostDevice, "synchronize", lambda _: waits.append(1))
    monkeypatch.setattr("sam3_runtime.measure.gpu_monitor.process_gpu_mib", lambda: None)
    monkeypatch.setattr("sam3_runtime.measure.gpu_monitor.read", lambda: Reading(sm_mhz=1500.0))
    found = benchmark(directory, settings(cameras=[1]), [IMAGE])
    assert asked == [True, False]
    assert [part.part for part in found.without["cuda_graphs"].parts] == [part.part for part in found.parts]
    assert found.device_memory is not None
    assert (found.device_memory.method, found.device_memory.peak_mib) == ("device", 2000.0)
    assert found.clocks is not None
    assert found.clocks.during.sm_mhz == 1500.0
    borders = 2 * len(STAGES) * 2  # two rounds with stages
    assert len(waits) > 2 * borders


def test_a_source_without_an_image_is_named(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        benchmark(directory, settings(source=[str(tmp_path / "empty")]))
