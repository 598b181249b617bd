"""trtexec: the command that a recipe says, and a tool of that name that succeeds, fails, is killed, or lies."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import CalibrationCache, Task, build_engine, tensorrt
from sam3_runtime.plan.toolchain import trtexec_version
from tests.engines.building.test_tensorrt import H200, make_task

RUNNING = "&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec"
TOOL = """#!{python}
import json, os, pathlib, signal, sys, time
print("{running}")
given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
if "--help" in given:
    sys.exit(0)
pathlib.Path(__file__).with_name("arguments.json").write_text(json.dumps(given))
def build():
    pathlib.Path(given["--saveEngine"]).write_bytes(b"engine")
    layer = {{"Name": "x", "LayerType": "Myelin", "Inputs": [], "Outputs": [], "Metadata": ""}}
    pathlib.Path(given["--exportLayerInfo"]).write_text(json.dumps({{"Layers": [layer]}}))
    cache = pathlib.Path(given["--timingCacheFile"])
    cache.write_bytes((cache.read_bytes() if cache.is_file() else b"") + b"measured")
def say(text, severity="I"):
    print(f"[11/21/2026-12:00:00] [{{severity}}] [TRT] {{text}}", flush=True)
say("Total Activation Memory: 4096")
{body}
"""
PASSED = "print('&&&& PASSED TensorRT.trtexec')"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a ``trtexec`` on PATH, of that version, that does ``body``; no module ``tensorrt`` is beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: H200)
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    def make(body: str, version: str = "8601") -> Path:
        path = folder / "trtexec"
        running = RUNNING.format(version=version)
        path.write_text(TOOL.format(python=sys.executable, running=running, body=body))
        path.chmod(0o755)
        trtexec_version.cache_clear()
        return path

    yield make
    trtexec_version.cache_clear()


def test_an_engine_comes_out_and_its_record_says_how(
    tool: Callable[..., Path],
    typed_graphs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tool(f"build(); {PASSED}")
    monkeypatch.chdir(tmp_path)
    timing = tmp_path / "timing.cache"
    task = Task.of(
        typed_graphs["text-encoder"],
        tmp_path / "text-encoder.engine",
        batch=4,
        precision="fp16",
        toolchain={"backend": "tensorrt", "version": "8.6.1", "gpu": H200.name, "compute_capability": "9.0"},
        settings={"workspace_mib": 100},
        timing_cache=timing,
    )
    record = build_engine(task, code="", cache=tmp_path / "cache")
    assert (tmp_path / "text-encoder.engine").read_bytes() == b"engine"
    assert shlex.split(record.command)[:3] == [
        "trtexec", "--onnx=text-encoder.onnx", "--saveEngine=text-encoder.engine",
    ]  # fmt: skip
    assert "--memPoolSize=workspace:100" in record.command
    assert {tensor.name: tensor.dtype for tensor in (*record.inputs, *record.outputs)} == {
        "input_ids": "int32", "attention_mask": "int32", "text_features": "float16", "text_mask": "bool",
    }  # fmt: skip
    assert record.sizes.activation == 4096
    assert record.layers is not None
    assert record.layers.opaque == 1
    assert timing.read_bytes() == b"measured"
    assert {path.name for path in (tmp_path / "text-encoder.engine").resolve().parent.iterdir()} == {
        "text-encoder.engine", "text-encoder.engine.json", "users",
    }  # fmt: skip
    assert f"building with trtexec: {record.command}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("say('the moon is full', 'E'); sys.exit(1)", r"trtexec ended with code 1 for .*: the moon is full"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"trtexec was killed .*\(SIGKILL\)\nHint: .*memory is full"),
        (PASSED, r"trtexec reported PASSED and wrote no engine"),
        (f"open(given['--saveEngine'], 'w').close(); {PASSED}", r"reported PASSED and wrote no engine"),
    ],
)
def test_what_is_no_engine_is_an_error(
    tool: Callable[..., Path], typed_graphs: dict[str, Path], tmp_path: Path, body: str, expected: str
) -> None:
    tool(body)
    task = make_task(typed_graphs["text-encoder"], tmp_path, "8.6.1")
    with pytest.raises(BuildError, match=expected):
        tensorrt.build(task)


def test_a_build_without_memory_is_tried_with_a_smaller_workspace(
    tool: Callable[..., Path], typed_graphs: dict[str, Path], tmp_path: Path
) -> None:
    tool(
        "if given.get('--memPoolSize') == 'workspace:1024':\n    build()\n"
        "else:\n    say('Could not find any implementation for node x', 'E')\n    sys.exit(1)"
    )
    task = make_task(typed_graphs["text-encoder"], tmp_path, "8.6.1", settings={"workspace_mib": 2048})
    built = tensorrt.build(replace(task, timing_cache=tmp_path / "timing.cache"))
    assert "--memPoolSize=workspace:1024" in built.command


def test_calibrating_on_random_data_is_an_error(
    tool: Callable[..., Path], typed_graphs: dict[str, Path], tmp_path: Path
) -> None:
    tool(f"say('Starting Calibration with batch size 1.'); build(); {PASSED}")
    cache = tmp_path / "r112.cache"
    cache.write_bytes(b"TRT-8601-MinMaxCalibration\n")
    task = make_task(typed_graphs["vision-encoder"], tmp_path, "8.6.1", timing_cache=tmp_path / "timing.cache")
    with pytest.raises(BuildError, match="wanted to calibrate again"):
        tensorrt.build(replace(task, calibration=CalibrationCache(cache, "entropy")))


def test_which_of_the_two_builds(tool: Callable[..., Path], typed_graphs: dict[str, Path], tmp_path: Path) -> None:
    def asked(version: str, **changes: Any) -> bool:
        return tensorrt._takes_trtexec(make_task(typed_graphs["text-encoder"], tmp_path, version, **changes), version)

    cache = CalibrationCache(tmp_path / "c", "minmax")
    path = tool("build()")
    assert asked("8.6.1")
    assert not asked("8.6.1", builder="python")
    assert not asked("8.6.1", calibration=cache)
    assert not asked("10.9.0.34")
    with pytest.raises(BuildError, match=r"trtexec is of TensorRT 8\.6\.1, and the build was planned with 10\.9\.0"):
        asked("10.9.0", builder="trtexec")
    with pytest.raises(BuildError, match=r"of another algorithm\nHint: .*builder: python"):
        asked("8.6.1", builder="trtexec", calibration=cache)
    path.unlink()
    trtexec_version.cache_clear()
    assert not asked("8.6.1")
    with pytest.raises(BuildError, match="trtexec is not on PATH"):
        asked("8.6.1", builder="trtexec")
