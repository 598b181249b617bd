"""Measuring a run: what is counted is what ran, and the record can be shared."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.families.sam3.banks import Bank
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.records.measurements import Clocks, DeviceMemory, Reading, StreamBench
from sam3_runtime.streams.benchmark import CountedEngine, Repeated, benchmark_stream
from sam3_runtime.streams.benchmark_text import markdown
from tests.cli.test_infer import clip
from tests.cli.test_main import run
from tests.streaming import Listed, picture, within


@pytest.fixture
def bank(shop_bank: Bank, tmp_path: Path) -> Path:
    shop_bank.save(tmp_path / "shop.npz")
    return tmp_path / "shop.npz"


def test_a_run_of_six_cameras(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    videos = [str(clip(tmp_path / f"{name}.mp4", 5)) for name in "ab"]
    found = within(lambda: benchmark_stream(fake_variant, bank, videos, cameras=6, frames=10, warm_up=3, top=2))
    assert (found.cameras, found.classes, found.kept, found.pictures) == (6, 3, 2, ((48, 64),) * 6)
    assert found.frames >= 60
    assert found.images == pytest.approx(4, abs=0.2), "rounds are full"
    assert found.rounds.n == pytest.approx(found.frames / found.images, abs=0.01)
    assert found.masks == pytest.approx(found.images * 3 * 2, rel=0.01)
    assert found.fps == pytest.approx(found.fps_per_camera * 6, rel=0.01)
    calls = {(one.part, tuple(one.shape.items())): one.calls for one in found.calls}
    assert sum(calls[key] for key in calls if key[0] == "vision-encoder") == pytest.approx(1)
    assert calls["vision-encoder", (("B", 4),)] == pytest.approx(1, abs=0.1)
    decoder = [key for key in calls if key[0] == "decoder"]
    assert sum(calls[key] for key in decoder) == pytest.approx(3, abs=0.1), "a class at a time over four images"
    assert found.engines_ms == pytest.approx(sum(one.calls * one.alone.median for one in found.calls), rel=0.01)
    assert found.ratio == pytest.approx(found.seconds * 1e3 / found.rounds.n / found.engines_ms, rel=0.01)
    assert found.ratio_inside is not None
    assert found.ratio_inside > 1
    assert (found.device_memory, found.clocks, found.busy_percent) == (None, None, None)
    assert str(tmp_path) not in found.model_dump_json()


def test_the_command_writes_a_record_and_a_table(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    done = run(
        "bench-stream", "--engines", str(fake_variant), "--bank", str(bank), "--source", str(clip(tmp_path / "a.mp4")),
        "--frames", "8", "--warmup", "3", "--threads", "1", "--output", str(tmp_path / "results/fake"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = StreamBench.read(tmp_path / "results/fake.json")
    assert found.threads == 1
    text = (tmp_path / "results/fake.md").read_text()
    assert done.stdout == text == markdown(found)
    assert "1 camera of 64 x 48, 3 classes, detections above the threshold" in text
    assert "gpu_busy |" not in text
    on_gpu = found.model_copy(
        update={
            "busy_percent": 96.5,
            "checkpoint": "random",
            "device_memory": DeviceMemory(method="process", before_mib=1, loaded_mib=2, ready_mib=3, peak_mib=4321.4),
            "clocks": Clocks(before=Reading(), during=Reading(sm_mhz=1980, memory_mhz=3201), samples=9),
        }
    )
    shown = markdown(on_gpu)
    for part in ("| 96 %     |", "| 4321     |", "clocks: SM 1980 MHz, memory 3201 MHz", "The weights are random"):
        assert part in shown
    silent = Clocks(before=Reading(), during=Reading(sm_mhz=1980), samples=9)
    assert "clocks: SM 1980 MHz, memory unknown" in markdown(on_gpu.model_copy(update={"clocks": silent}))


def test_a_live_source_is_not_measured(fake_variant: Path, bank: Path) -> None:
    with pytest.raises(SourceError, match="a pace of its own"):
        benchmark_stream(fake_variant, bank, ["camera:0"])


def test_a_file_begins_again() -> None:
    source = Repeated(Listed("a", [picture(n) for n in range(3)]))
    frames = itertools.islice(source.read(lambda _: None), 8)
    assert [(one.number, int(one.image[0, 0, 0])) for one in frames] == [(n, n % 3) for n in range(8)]
    with pytest.raises(SourceError, match="contains no frame"):
        next(Repeated(Listed("a", [])).read(lambda _: None))


def test_calls_are_told_apart_by_their_shapes(fake_pipeline: Pipeline) -> None:
    engine = CountedEngine(fake_pipeline.engines["vision-encoder"])
    for count in (1, 4, 1):
        engine.infer({"images": np.zeros((count, 3, 112, 112), np.float32)})
    assert dict(engine.calls) == {(("B", 1),): 2, (("B", 4),): 1}
    assert engine.seconds > 0
    engine.reset()
    assert (engine.seconds, sum(engine.calls.values())) == (0, 0)
