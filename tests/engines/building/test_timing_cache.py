"""The file of timings that builds share: read, added to, and replaced where it is another machine's."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.engines.building.tensorrt_messages import BuildLog
from sam3_runtime.engines.building.timing_cache import TimingCache
from tests.engines.building.fake_tensorrt import make_module

HERE = {"backend": "tensorrt", "version": "8.6.1", "gpu": "NVIDIA H200", "compute_capability": "9.0"}


def make_config() -> Any:
    return make_module("8.6.1").Builder(None).create_builder_config()


def build(cache: TimingCache, measured: bytes) -> None:
    """What a build does with it."""
    config = make_config()
    cache.attach(config, BuildLog())
    config.get_timing_cache()._content += measured
    cache.keep(config)


def test_what_one_build_measured_the_next_has(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "timing.cache"
    build(TimingCache(path, HERE), b"one")
    config = make_config()
    TimingCache(path, HERE).attach(config, BuildLog())
    assert config.get_timing_cache().serialize() == b"one"
    assert json.loads(path.with_name("timing.cache.json").read_text()) == {
        "version": "8.6.1", "gpu": "NVIDIA H200", "compute_capability": "9.0",
    }  # fmt: skip
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")) == [
        "timing.cache",
        "timing.cache.json",
    ]


def test_builds_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    first, second = make_config(), make_config()
    for config, measured in ((first, b"one"), (second, b"two")):
        TimingCache(path, HERE).attach(config, BuildLog())
        config.get_timing_cache()._content += measured
    threads = [threading.Thread(target=keep, args=(path, config)) for config in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([path.read_bytes()[:3], path.read_bytes()[3:]]) == [b"one", b"two"]


def keep(path: Path, config: Any) -> None:
    TimingCache(path, HERE).keep(config)


@pytest.mark.parametrize("change", [{"version": "10.9.0.34"}, {"gpu": "NVIDIA L4", "compute_capability": "8.9"}])
def test_timings_of_another_machine_are_said_and_replaced(tmp_path: Path, change: dict[str, str]) -> None:
    path, said = tmp_path / "timing.cache", list[str]()
    build(TimingCache(path, HERE), b"one")
    there = HERE | change
    build(TimingCache(path, there, said.append), b"two")
    assert path.read_bytes() == b"two"
    assert "is of TensorRT 8.6.1 on NVIDIA H200, and this is" in said[0]
    assert f"TensorRT {there['version']} on {there['gpu']}: it is replaced" in said[0]


def test_timings_that_tensorrt_refuses_are_replaced(tmp_path: Path) -> None:
    path, said = tmp_path / "timing.cache", list[str]()
    path.write_bytes(b"other than this TensorRT writes")
    log = BuildLog(errors=["before"])
    config = make_config()
    cache = TimingCache(path, HERE, said.append)
    cache.attach(config, log)
    cache.keep(config)
    assert said == [f"TensorRT does not take the timing cache {path}: it is replaced"]
    assert log.errors == ["before"]
    assert path.read_bytes() == b""


def test_a_copy_takes_the_place_of_a_smaller_one_alone(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "timing.cache", HERE)
    cache.write_larger(b"four")
    cache.write_larger(b"one")
    assert cache.read() == b"four"
