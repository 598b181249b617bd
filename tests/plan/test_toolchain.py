"""A work folder stays with one backend and one checkpoint, and its record stands where nothing can be probed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.gpus import Gpu
from sam3_runtime.plan import toolchain
from sam3_runtime.plan.settings import VariantsFile
from sam3_runtime.plan.variants import parse
from sam3_runtime.records.records import CheckpointLock, Toolchain
from tests.engine_records import DIMS

SETTINGS = parse("variants: [{}]").settings


def test_what_is_installed_is_found(tmp_path: Path) -> None:
    found = toolchain.resolve(SETTINGS, tmp_path)
    assert found.backend == "onnxruntime"
    assert found.version[0].isdigit()


def test_the_record_stands_where_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_version", lambda _: toolchain.NOT_INSTALLED)
    assert toolchain.resolve(SETTINGS, tmp_path).version == toolchain.NOT_INSTALLED
    Toolchain(backend="onnxruntime", version="1.20.0").write(tmp_path / "toolchain.json")
    assert toolchain.resolve(SETTINGS, tmp_path).version == "1.20.0"


def test_another_version_is_seen(tmp_path: Path) -> None:
    Toolchain(backend="onnxruntime", version="0.1").write(tmp_path / "toolchain.json")
    assert toolchain.resolve(SETTINGS, tmp_path).version != "0.1"


def test_another_backend_needs_another_folder(tmp_path: Path) -> None:
    Toolchain(backend="tensorrt", version="10.0").write(tmp_path / "toolchain.json")
    with pytest.raises(WorkFolderError, match=r"(?s)built with the backend tensorrt .*--directory FOLDER"):
        toolchain.resolve(SETTINGS, tmp_path)


# --- TensorRT -------------------------------------------------------------------------------------------------------

H200 = Gpu("NVIDIA H200", "9.0", "580.65", 141 << 30, "GPU-a")


def asking(backend: str = "tensorrt", gpu: str = "0") -> VariantsFile:
    return parse(f"backend: {backend}\nbuild: {{gpu: {gpu}}}\nvariants: [{{}}]").settings


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set up which GPUs, which TensorRT distribution and which trtexec there are."""

    def set_up(*gpus: Gpu, installed: str | None = None, trtexec: str | None = None) -> None:
        monkeypatch.setattr(toolchain, "find_gpus", lambda: gpus)
        monkeypatch.setattr(toolchain, "find_gpu", lambda: next(iter(gpus), None))
        monkeypatch.setattr(toolchain, "cuda_version", lambda: "13.0")
        real = metadata.version

        def version(name: str) -> str:
            if "tensorrt" not in name or "rtx" in name:
                return real(name)
            if installed is None or name != "tensorrt":
                raise metadata.PackageNotFoundError(name)
            return installed

        monkeypatch.setattr(toolchain.metadata, "version", version)
        tools = tmp_path / "bin"
        tools.mkdir(exist_ok=True)
        if trtexec:
            (tools / "trtexec").write_text(
                f"#!/bin/sh\necho '&&&& RUNNING TensorRT.trtexec [TensorRT {trtexec}] # x'\n"
            )
            (tools / "trtexec").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
        toolchain.trtexec_version.cache_clear()

    yield set_up
    toolchain.trtexec_version.cache_clear()


def test_the_card_and_the_version_are_what_engines_depend_on(machine: Callable[..., None], tmp_path: Path) -> None:
    machine(H200, installed="10.9.0.34")
    found = toolchain.resolve(asking(), tmp_path)
    assert found == Toolchain(
        backend="tensorrt",
        version="10.9.0.34",
        gpu="NVIDIA H200",
        compute_capability="9.0",
        driver="580.65",
        cuda="13.0",
    )
    assert set(found.key()) == {"backend", "version", "gpu", "compute_capability"}
    found.write(tmp_path / "toolchain.json")
    newer = replace(H200, driver="590.1")
    machine(newer, installed="10.9.0.34")
    again = toolchain.resolve(asking(), tmp_path)
    assert again.driver == "590.1"
    assert again.key() == found.key()
    machine(replace(H200, name="NVIDIA H100"), installed="10.9.0.34")
    assert toolchain.resolve(asking(), tmp_path).key() != found.key()


@pytest.mark.parametrize(("said", "version"), [("v8601", "8.6.1"), ("v101300", "10.13.0"), ("v110100", "11.1.0")])
def test_trtexec_alone_tells_its_version(machine: Callable[..., None], said: str, version: str) -> None:
    machine(H200, trtexec=said)
    assert toolchain.probe("tensorrt").version == version


def test_auto_is_tensorrt_where_it_can_build(machine: Callable[..., None], tmp_path: Path) -> None:
    machine(H200, installed="8.6.1")
    assert toolchain.resolve(asking("auto"), tmp_path).backend == "tensorrt"
    machine(H200)
    assert toolchain.resolve(asking("auto"), tmp_path).backend == "onnxruntime"
    machine(installed="8.6.1")
    assert toolchain.resolve(asking("auto"), tmp_path).backend == "onnxruntime"


@pytest.mark.parametrize("installed", [None, "10.9.0.34"])
def test_the_record_stands_where_there_is_no_card(
    machine: Callable[..., None], tmp_path: Path, installed: str | None
) -> None:
    built = Toolchain(backend="tensorrt", version="8.6.1", gpu="NVIDIA H200", compute_capability="9.0")
    built.write(tmp_path / "toolchain.json")
    machine(installed=installed)
    assert toolchain.resolve(asking(), tmp_path) == built


def test_several_cards_must_be_of_one_model(machine: Callable[..., None], tmp_path: Path) -> None:
    other = Gpu("NVIDIA L4", "8.9", "580.65", 24 << 30, "GPU-b")
    machine(H200, replace(H200, uuid="GPU-c"), other, installed="8.6.1")
    assert toolchain.resolve(asking(gpu="[1, 0]"), tmp_path).gpu == "NVIDIA H200"
    assert toolchain.resolve(asking(gpu="2"), tmp_path).gpu == "NVIDIA L4"
    with pytest.raises(WorkFolderError, match=r"different models: NVIDIA H200 \(9\.0\), NVIDIA L4 \(8\.9\)"):
        toolchain.resolve(asking(gpu="[0, 2]"), tmp_path)
    with pytest.raises(WorkFolderError, match=r"names GPU 3, but this machine shows 3"):
        toolchain.resolve(asking(gpu="[0, 3]"), tmp_path)


@pytest.mark.parametrize(("checkpoint", "revision"), [("other/sam3", "main"), ("facebook/sam3", "v2")])
def test_another_checkpoint_needs_another_folder(tmp_path: Path, checkpoint: str, revision: str) -> None:
    locked = CheckpointLock(checkpoint=checkpoint, revision=revision, commit="c", digest="d", dims=DIMS.to_dict())
    locked.write(tmp_path / "checkpoint.lock")
    with pytest.raises(WorkFolderError, match="one folder holds one checkpoint"):
        toolchain.locked_checkpoint(SETTINGS, tmp_path, "weights")


def test_the_locked_dimensions_are_those_of_the_plan(tmp_path: Path) -> None:
    assert toolchain.locked_checkpoint(SETTINGS, tmp_path, "weights") is None
    locked = CheckpointLock(checkpoint="facebook/sam3", revision="main", commit="c", digest="d", dims=DIMS.to_dict())
    locked.write(tmp_path / "checkpoint.lock")
    found = toolchain.locked_checkpoint(SETTINGS, tmp_path, "weights")
    assert found == locked
    assert found.model_dims == DIMS
