"""GPU generations as people write them, and the GPUs that NVML shows."""

from __future__ import annotations

from typing import Any

import pytest

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.gpus import Gpu, cuda_version, find_gpu, find_gpus, names_of, parse_gpu, select_gpus, without_fp8
from sam3_runtime.plan.toolchain import NO_GPU, cpu_name, device_name, probe, why_not_run
from sam3_runtime.records.records import Toolchain
from tests.conftest import ShowGpus

H200 = {"name": "NVIDIA H200", "uuid": "GPU-aa11"}
L4 = {"name": "NVIDIA L4", "uuid": "GPU-bb22", "capability": [8, 9], "total_mib": 23034}
SPLIT: dict[str, Any] = {
    **{"name": "NVIDIA A100", "uuid": "GPU-cc33", "capability": [8, 0]},
    "mig": [
        {"name": "NVIDIA A100 MIG 3g.20gb", "uuid": "MIG-d4", "total_mib": 19968},
        {"name": "NVIDIA A100 MIG 2g.10gb", "uuid": "MIG-e5", "total_mib": 9856},
    ],
}


@pytest.mark.parametrize(
    ("written", "capability"),
    [("ada", "8.9"), ("Ada", "8.9"), ("8.9", "8.9"), (8.9, "8.9"), (89, "8.9"), ("sm_89", "8.9"), ("SM120", "12.0"),
     (12.0, "12.0"), ("blackwell", "12.0"), (121, "12.1"), ("turing", "7.5"), ("ampere", "8.6"), (80, "8.0")],
)  # fmt: skip
def test_a_generation_by_any_of_its_names(written: object, capability: str) -> None:
    assert parse_gpu(written) == capability


@pytest.mark.parametrize("written", ["hopper", 90, "sm_", "", True, None, "rtx4090"])
def test_the_message_for_an_unknown_generation_lists_the_known_ones(written: object) -> None:
    with pytest.raises(ValueError, match=r"(?s)not a GPU generation.*ada, blackwell.*75, 80, 86, 89, 120, 121"):
        parse_gpu(written)


def test_generations_in_messages() -> None:
    assert names_of(["8.6", "8.9", "12.0"]) == "Ampere (8.6), Ada (8.9) and Blackwell (12.0)"
    assert names_of(["9.0"]) == "9.0"
    assert without_fp8(["7.5", "8.6", "8.9", "12.0"]) == ["7.5", "8.6"]


def test_the_gpu_is_as_the_driver_describes_it(show_gpus: ShowGpus) -> None:
    name = "NVIDIA GeForce RTX 4090"
    show_gpus({"name": name, "capability": [8, 9], "total_mib": 24564, "uuid": "GPU-1"}, driver="570.86.10")
    assert find_gpu() == Gpu(name, "8.9", "570.86.10", 24564 << 20, "GPU-1")
    assert cuda_version() == "13.0"
    assert device_name(probe("tensorrt-rtx")) == name
    assert why_not_run("tensorrt-rtx") is None


def test_a_driver_without_a_gpu(show_gpus: ShowGpus) -> None:
    show_gpus()
    assert find_gpu() is None
    assert cuda_version() == "13.0"


def test_a_machine_without_a_driver(show_gpus: ShowGpus) -> None:
    del show_gpus
    assert find_gpu() is None
    assert cuda_version() is None
    assert device_name(probe("tensorrt-rtx")) == NO_GPU
    assert "no NVIDIA driver was found" in str(why_not_run("tensorrt-rtx"))
    assert why_not_run("onnxruntime") is None


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, ["NVIDIA H200", "NVIDIA L4"]),
        ("1,0", ["NVIDIA L4", "NVIDIA H200"]),
        ("GPU-bb", ["NVIDIA L4"]),
        ("1", ["NVIDIA L4"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["NVIDIA L4"]),  # as CUDA: up to the first that does not exist
        ("7", []),
        ("MIG-d4", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_shows(
    show_gpus: ShowGpus, monkeypatch: pytest.MonkeyPatch, setting: str | None, names: list[str]
) -> None:
    show_gpus(H200, L4)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [gpu.name for gpu in find_gpus()] == names
    found = find_gpu()
    assert (found and found.name) == next(iter(names), None)


@pytest.mark.parametrize(
    ("setting", "uuids"),
    [
        (None, ["GPU-aa11", "MIG-d4"]),
        ("1", ["MIG-d4"]),
        ("MIG-e5", ["MIG-e5"]),
        ("MIG-e5,0", ["MIG-e5", "GPU-aa11"]),
        ("MIG-GPU-cc33/1/0", []),
    ],
)
def test_a_gpu_in_mig_mode_is_its_instances(
    show_gpus: ShowGpus, monkeypatch: pytest.MonkeyPatch, setting: str | None, uuids: list[str]
) -> None:
    """Each with a name and memory of its own, which are those that CUDA tells; the GPU's compute capability."""
    show_gpus(H200, SPLIT)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    found = find_gpus()
    assert [gpu.uuid for gpu in found] == uuids
    instances = [gpu for gpu in found if gpu.uuid == "MIG-e5"]
    assert len(instances) == uuids.count("MIG-e5")
    assert instances in ([], [Gpu("NVIDIA A100 MIG 2g.10gb", "8.0", "580.65", 9856 << 20, "MIG-e5")])


def test_the_message_for_a_number_without_a_gpu_lists_those_that_there_are(
    show_gpus: ShowGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA_VISIBLE_DEVICES makes the numbers differ from those of nvidia-smi."""
    show_gpus(H200, L4)
    assert [gpu.uuid for gpu in select_gpus(find_gpus(), [1, 0])] == ["GPU-bb22", "GPU-aa11"]
    with pytest.raises(WorkFolderError, match="GPU 2, but this machine shows 2: 0 is NVIDIA H200, 1 is NVIDIA L4\\n"):
        select_gpus(find_gpus(), [0, 2])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    message = (
        r"build\.gpu names GPU 1, but CUDA_VISIBLE_DEVICES=1 shows 1: 0 is NVIDIA L4\n"
        r"Hint: GPUs are numbered from 0, in the order of nvidia-smi, or of CUDA_VISIBLE_DEVICES where it is set"
    )
    with pytest.raises(WorkFolderError, match=message):
        select_gpus(find_gpus(), [1])


def test_engines_run_on_the_gpu_of_this_machine_whatever_built_them(show_gpus: ShowGpus) -> None:
    built = Toolchain(backend="tensorrt", version="8.6.1", gpu="NVIDIA L4", compute_capability="8.9")
    assert device_name(built) == "NVIDIA L4", "without a GPU, the one that they were built for"
    show_gpus(H200, L4)
    assert device_name(built) == "NVIDIA H200"
    assert device_name(Toolchain(backend="onnxruntime", version="1.31")) == cpu_name()
