"""The build stage with TensorRT, on a machine with a fake NVML and a small script for ``trtexec``."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from sam3_runtime.records.records import EngineRecord, Toolchain
from tests.conftest import PROJECT
from tests.workflow.conftest import HALF, WorkFolder


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(map(is_installed, ("tensorrt", "tensorrt-bindings"))), reason="a real TensorRT is installed here"
    ),
]

FAKES = PROJECT / "tests/fake_nvml"
CHOSEN = {"backend": "tensorrt", **HALF}
TRTEXEC = """#!{python}
import pathlib, sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec")
given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
if "--help" in given:
    sys.exit(0)
name = pathlib.Path(given["--onnx"]).stem
if name == "{breaks}":
    {how}
pathlib.Path(given["--saveEngine"]).write_text(name)
pathlib.Path(given["--timingCacheFile"]).write_text("timings")
print("&&&& PASSED TensorRT.trtexec")
"""


class Machine:
    """What is found before everything else: a GPU and a builder, until something else is written."""

    def __init__(self, folder: Path) -> None:
        self.tools, self.temporary = folder / "tools", folder / "temporary"
        self.tools.mkdir()
        self.temporary.mkdir()
        self.environment = {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "PYTHONPATH": f"{FAKES}:{PROJECT}",
            "TMPDIR": str(self.temporary),
        }
        self.has()
        self.builds()

    def has(self, gpu: str = "NVIDIA H200", driver: str = "580.65") -> None:
        self.environment |= {"FAKE_GPUS": json.dumps([{"name": gpu}]), "FAKE_DRIVER": driver}

    def builds(self, breaks: str = "", how: str = "pass") -> None:
        (self.tools / "trtexec").write_text(TRTEXEC.format(python=sys.executable, breaks=breaks, how=how))
        (self.tools / "trtexec").chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Machine(tmp_path)


@pytest.fixture
def small(tmp_path: Path, exported_once: WorkFolder) -> WorkFolder:
    """A work folder in which everything was exported."""
    folder = exported_once.copy(tmp_path)
    folder.write(**CHOSEN, build={"optimal": {"n": 3}})
    return folder


def test_engines_are_built_and_again_where_the_gpu_is_another(small: WorkFolder, machine: Machine) -> None:
    run = small.snakemake("build_all", **machine.environment)
    assert run.returncode == 0, run.stdout
    toolchain = Toolchain.read(small.path / "toolchain.json")
    assert (toolchain.backend, toolchain.version, toolchain.gpu) == ("tensorrt", "8.6.1", "NVIDIA H200")
    record = EngineRecord.read(small.path / "engines/b2_q20_r112/geometry-encoder.engine.json")
    assert (record.toolchain.driver, record.profile["n"]) == ("580.65", (1, 3, 27))
    assert record.settings == {"optimal": {"n": 3}}
    assert (small.path / "engines/cache/timing.cache").read_text() == "timings"
    log = (small.path / "logs/build/b2/text-encoder.log").read_text()
    assert "GPU 0: NVIDIA H200" in log
    assert "building with trtexec: trtexec --onnx=text-encoder.onnx" in log

    assert small.planned("build_all", **machine.environment) == {}
    machine.has(driver="590.1")
    small.write(
        **CHOSEN,
        build={"optimal": {"n": 3}, "gpu": [0], "tensorrt": {"builder": "trtexec", "timing_cache": "elsewhere.cache"}},
    )
    assert small.planned("build_all", **machine.environment) == {}
    (machine.tools / "trtexec").unlink()  # as in the environment that exports: the record stands
    assert small.planned("build_all", **machine.environment) == {}

    machine.builds()
    machine.has(gpu="NVIDIA H100 80GB HBM3")
    builds = {"build_engine": 4, "link_engine": 4}
    assert small.planned("build_all", **machine.environment) == {**builds, "configure_variant": 1, "build_all": 1}
    said = small.snakemake("build_all", "--dry-run", **machine.environment).stdout
    assert "Params have changed since last execution" in said


def test_a_build_that_fails_says_why_and_the_others_go_on(small: WorkFolder, machine: Machine) -> None:
    machine.builds(breaks="decoder_q20", how="print('&&&& PASSED'); sys.exit(0)")
    run = small.snakemake("build_all", **machine.environment)
    assert run.returncode != 0
    said = (small.path / "logs/build/b2_r112/decoder_q20.log").read_text()
    assert "trtexec reported PASSED and wrote no engine for decoder_q20.onnx" in said
    assert "Traceback" not in said
    store = {path.name for path in (small.path / "engines/store").rglob("*.engine")}
    assert store == {"vision-encoder.engine", "text-encoder.engine", "geometry-encoder.engine"}
    assert small.half_written() == []
    machine.builds()
    assert small.snakemake("build_all", **machine.environment).returncode == 0
