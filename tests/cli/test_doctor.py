"""What the doctor says of machines that are not this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sam3_runtime.cli import doctor
from sam3_runtime.cli.main import app
from sam3_runtime.core.gpus import Gpu
from sam3_runtime.plan import toolchain
from sam3_runtime.records.measurements import Reading

SETTINGS = "model: {{checkpoint: random}}\nbackend: {backend}\nvariants:\n  - {{resolution: [672, 1008]}}\n"
H200 = Gpu("NVIDIA H200", "9.0", "580.1", 140 << 30)


class Machine:
    """Decides what is found: ``modules`` that import, cards, and what is free."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.modules = {"numpy": "2.4.6", "cv2": "5.0.0", "onnxruntime": "1.31.1"}
        self.gpus: tuple[Gpu, ...] = ()
        self.broken: dict[str, str] = {}
        self.used: float | None = 0.0
        patch.setattr(doctor, "_import", self._import)
        patch.setattr(doctor, "find_gpus", lambda: self.gpus)
        patch.setattr(toolchain, "find_gpus", lambda: self.gpus)
        patch.setattr(doctor, "cuda_version", lambda: "13.0")
        patch.setattr(doctor, "trtexec_version", lambda: None)
        patch.setattr(doctor, "read", lambda: Reading(used_mib=self.used))

    def _import(self, module: str) -> tuple[str, str | None]:
        if module in self.broken:
            return "", self.broken[module]
        known = self.modules.get(module)
        return (known, None) if known else ("", f"ModuleNotFoundError: No module named '{module}'")

    def examine(self, backend: str) -> tuple[bool, dict[str, Any]]:
        (self.folder / "variants.yaml").write_text(SETTINGS.format(backend=backend))
        found = doctor.examine(self.folder, self.folder / "variants.yaml")
        return found["ready"], {one["name"]: one for one in found["findings"]}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_machine_without_a_gpu_is_ready_for_onnx_runtime(machine: Machine) -> None:
    ready, found = machine.examine("onnxruntime")
    assert ready
    assert found["driver and GPU"]["state"] == "missing"
    assert not found["driver and GPU"]["needed"]
    assert "GPU memory" not in found


def test_what_tensorrt_needs_and_is_not_there_is_missing(machine: Machine) -> None:
    ready, found = machine.examine("tensorrt")
    assert not ready
    needed = {name for name, one in found.items() if one["state"] == "missing" and one["needed"]}
    assert needed == {"driver and GPU", "TensorRT", "pycuda"}
    assert all(found[name]["hint"] for name in needed)


def test_a_machine_with_everything(machine: Machine) -> None:
    machine.gpus = (H200, H200)
    machine.modules |= {"tensorrt": "8.6.1", "pycuda.driver": "2024.1"}
    ready, found = machine.examine("tensorrt")
    assert ready
    assert found["TensorRT"]["said"] == "8.6.1"
    assert found["GPU 1"]["said"] == "NVIDIA H200, compute capability 9.0, 143360 MiB"
    assert found["GPU memory"]["state"] == "ok"
    assert "b8_q50_r1008" in found["GPU memory"]["said"]


def test_a_broken_library_is_a_line_and_names_no_folder(machine: Machine) -> None:
    machine.gpus = (H200,)
    machine.modules["pycuda.driver"] = "2024.1"
    machine.broken["tensorrt"] = "ImportError: libnvinfer.so.8: cannot open shared object file"
    ready, found = machine.examine("tensorrt")
    assert not ready
    assert found["TensorRT"]["said"].startswith("installed, and broken: ImportError: libnvinfer.so.8")
    machine.broken = {"torch": "OSError: libcudart.so"}
    machine.modules["tensorrt"] = "8.6.1"
    ready, found = machine.examine("tensorrt")
    assert ready
    assert found["PyTorch"]["state"] == "warning"


def test_too_little_room_is_a_warning_that_says_what_it_goes_by(machine: Machine) -> None:
    machine.gpus = (H200,)
    machine.modules |= {"tensorrt": "8.6.1", "pycuda.driver": "2024.1"}
    machine.used = 139 * 1024.0
    ready, found = machine.examine("tensorrt")
    assert ready
    assert found["GPU memory"]["state"] == "warning"
    assert "840 million parameters" in found["GPU memory"]["hint"]


def test_a_variants_file_that_cannot_be_read_is_a_line(machine: Machine) -> None:
    (machine.folder / "variants.yaml").write_text("variants: [{resolution: 671}]\n")
    found = doctor.examine(machine.folder, machine.folder / "variants.yaml")
    assert (found["backend"], found["ready"]) == (None, True)
    assert found["findings"][1]["state"] == "warning"
    assert "671" in found["findings"][1]["said"]
    found = doctor.examine(machine.folder, machine.folder / "absent.yaml")
    assert found["findings"][1]["state"] == "warning"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("__version__ = '1.2'", None),
        ("", None),
        ("raise OSError('libfoo.so.9 in /opt/place/libfoo.so.9')", "OSError: libfoo.so.9 in libfoo.so.9"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing it ended the process with signal 11"),
    ],
)
def test_libraries_are_imported_in_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str | None
) -> None:
    (tmp_path / "some_library.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    version, error = doctor._import("some_library")
    assert error == said
    assert version == ("" if said else "1.2" if source else "there")


def test_the_command_ends_with_1_when_something_is_missing(machine: Machine) -> None:
    machine.examine("tensorrt")  # writes the file
    run = CliRunner().invoke(app, ["doctor", "-d", str(machine.folder), "--json"])
    assert run.exit_code == 1
    assert json.loads(run.stdout)["backend"] == "tensorrt"
    shown = CliRunner().invoke(app, ["doctor", "-d", str(machine.folder)])
    assert "not ready" in shown.stdout
    machine.examine("onnxruntime")
    assert CliRunner().invoke(app, ["doctor", "-d", str(machine.folder)]).exit_code == 0


def test_the_engine_cache_is_looked_at(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> tuple[str, str]:
        found = machine.examine("onnxruntime")[1]["engine cache"]
        return found["state"], found["said"]

    store = machine.folder / "engines/store/b8"
    store.mkdir(parents=True)
    (machine.folder / "engine").touch()
    (store / "one.engine").symlink_to(machine.folder / "engine")
    assert said() == ("ok", "engines linked: 1")
    (store / "two.engine").symlink_to(machine.folder / "nowhere")
    assert said() == ("warning", "of 2 engines that this folder links, 1 is not there")
    (store / "two.engine").unlink()
    monkeypatch.setattr(doctor, "is_writable", lambda _: False)
    assert said() == ("warning", "it cannot be written to")
