"""GPU generations as people write them, and the card as the driver tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.gpus import Gpu, asked_for, find_gpu, find_gpus, names_of, parse_gpu, without_fp8
from sam3_runtime.plan.toolchain import NO_GPU, cpu_name, device_name, probe, why_not_run
from sam3_runtime.records.records import Toolchain


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on PATH for an ``nvidia-smi`` of a test's own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    find_gpu.cache_clear()
    yield tmp_path / "nvidia-smi"
    find_gpu.cache_clear()


def answer(tool: Path, text: str, code: int = 0) -> None:
    tool.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("written", "capability"),
    [("ada", "8.9"), ("Ada", "8.9"), ("8.9", "8.9"), (8.9, "8.9"), (89, "8.9"), ("sm_89", "8.9"), ("SM120", "12.0"),
     (12.0, "12.0"), ("blackwell", "12.0"), (121, "12.1"), ("turing", "7.5"), ("ampere", "8.6"), (80, "8.0")],
)  # fmt: skip
def test_a_generation_by_any_of_its_names(written: object, capability: str) -> None:
    assert parse_gpu(written) == capability


@pytest.mark.parametrize("written", ["hopper", 90, "sm_", "", True, None, "rtx4090"])
def test_an_unknown_generation_is_told_which_are_known(written: object) -> None:
    with pytest.raises(ValueError, match=r"(?s)no GPU generation.*ada, blackwell.*75, 80, 86, 89, 120, 121"):
        parse_gpu(written)


def test_for_people() -> None:
    assert names_of(["8.6", "8.9", "12.0"]) == "Ampere (8.6), Ada (8.9) and Blackwell (12.0)"
    assert names_of(["9.0"]) == "9.0"
    assert without_fp8(["7.5", "8.6", "8.9", "12.0"]) == ["7.5", "8.6"]


def test_the_card_is_what_the_driver_says(card: Path) -> None:
    answer(card, "NVIDIA GeForce RTX 4090, 8.9, 570.86.10, 24564")
    assert find_gpu() == Gpu("NVIDIA GeForce RTX 4090", "8.9", "570.86.10", 24564 << 20)
    assert device_name(probe("tensorrt-rtx")) == "NVIDIA GeForce RTX 4090"
    assert why_not_run("tensorrt-rtx") is None


@pytest.mark.parametrize(("text", "code"), [("No devices were found", 0), ("a, 8.9, 1, 2", 9), ("", 0)])
def test_a_driver_without_a_card_is_no_card(card: Path, text: str, code: int) -> None:
    answer(card, text, code)
    assert find_gpu() is None


def test_no_driver_is_no_card(card: Path) -> None:
    assert not card.exists()
    assert find_gpu() is None
    assert device_name(probe("tensorrt-rtx")) == NO_GPU
    assert "no NVIDIA driver was found" in str(why_not_run("tensorrt-rtx"))
    assert why_not_run("onnxruntime") is None


CARDS = "NVIDIA H200, 9.0, 580.65, 143771, GPU-aa11\nNVIDIA L4, 8.9, 580.65, 23034, GPU-bb22"


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, ["NVIDIA H200", "NVIDIA L4"]),
        ("1,0", ["NVIDIA L4", "NVIDIA H200"]),
        ("GPU-bb", ["NVIDIA L4"]),
        ("1", ["NVIDIA L4"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["NVIDIA L4"]),  # as CUDA: up to the first that there is not
        ("7", []),
        ("MIG-123", ["NVIDIA H200"]),
        ("MIG-GPU-bb22/1/0", ["NVIDIA L4"]),
    ],
)
def test_cards_are_those_that_cuda_is_shown(
    card: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, names: list[str]
) -> None:
    answer(card, CARDS)
    if setting is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [gpu.name for gpu in find_gpus()] == names
    found = find_gpu()
    assert (found and found.name) == next(iter(names), None)
    if found and setting and setting.startswith("MIG-"):
        assert found.uuid == setting, "a slice goes by its own name"


def test_a_number_that_is_not_shown_says_what_is(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is what nvidia-smi's own numbers differ by."""
    answer(card, CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.uuid for gpu in asked_for(find_gpus(), [1, 0])] == ["GPU-bb22", "GPU-aa11"]
    with pytest.raises(WorkFolderError, match="GPU 2, and this machine shows 2: 0 is NVIDIA H200, 1 is NVIDIA L4\\n"):
        asked_for(find_gpus(), [0, 2])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    said = (
        r"build\.gpu names GPU 1, and CUDA_VISIBLE_DEVICES=1 shows 1: 0 is NVIDIA L4\n"
        r"Hint: GPUs are numbered from 0, in the order of nvidia-smi, or of CUDA_VISIBLE_DEVICES where it is set"
    )
    with pytest.raises(WorkFolderError, match=said):
        asked_for(find_gpus(), [1])


def test_engines_run_on_the_card_of_this_machine_whatever_built_them(
    card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Toolchain(backend="tensorrt", version="8.6.1", gpu="NVIDIA L4", compute_capability="8.9")
    assert device_name(built) == "NVIDIA L4", "where there is no card, the one that they are for"
    answer(card, CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    find_gpu.cache_clear()
    assert device_name(built) == "NVIDIA H200"
    assert device_name(Toolchain(backend="onnxruntime", version="1.31")) == cpu_name()
