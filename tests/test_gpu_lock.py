"""One job at a time on each GPU, across processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("filelock")

from sam3_runtime import gpu_lock
from sam3_runtime.errors import WorkFolderError
from sam3_runtime.gpu_lock import hold_gpu
from sam3_runtime.gpus import Gpu, find_gpu

CARDS = tuple(Gpu("NVIDIA H200", "9.0", "580.65", 141 << 30, f"GPU-{name}") for name in "ab")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two cards, and a folder for temporary files of the test's own."""
    monkeypatch.setattr(gpu_lock, "find_gpus", lambda: CARDS)
    monkeypatch.setattr(gpu_lock.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    find_gpu.cache_clear()


def test_the_process_is_shown_the_card_that_it_holds() -> None:
    with hold_gpu([1]) as gpu:
        assert gpu is CARDS[1]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_each_takes_the_first_that_is_free() -> None:
    with hold_gpu([0, 1]) as first, hold_gpu([0, 1]) as second:
        assert (first, second) == CARDS
    with hold_gpu([0, 1]) as again:
        assert again is CARDS[0]


def test_nothing_is_held_where_none_is_asked_for_or_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with hold_gpu([]) as gpu:
        assert gpu is None
    monkeypatch.setattr(gpu_lock, "find_gpus", lambda: ())
    with hold_gpu([0]) as gpu:
        assert gpu is None


def test_a_number_that_is_not_there() -> None:
    with pytest.raises(WorkFolderError, match=r"names GPU 7, and this machine shows 2"), hold_gpu([7]):
        pass


HOLDER = """
import sys, tempfile
from sam3_runtime import gpu_lock
from sam3_runtime.gpus import Gpu
gpu_lock.find_gpus = lambda: (Gpu("NVIDIA H200", "9.0", "580.65", 1, "GPU-a"),)
gpu_lock.tempfile.gettempdir = lambda: sys.argv[1]
with gpu_lock.hold_gpu([0]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_waited_for_and_named(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    while "held" not in holder.stdout.readline():
        time.sleep(0.01)
    said: list[str] = []

    def announce(text: str) -> None:
        said.append(text)
        holder.communicate()  # lets it end, and with it the waiting

    with hold_gpu([0], announce) as gpu:
        assert gpu is CARDS[0]
    assert len(said) == 1
    assert f"held are GPU 0 by process {holder.pid} in {Path.cwd()}" in said[0]


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    while "held" not in holder.stdout.readline():
        time.sleep(0.01)
    holder.kill()
    holder.communicate()
    said: list[str] = []
    with hold_gpu([0], said.append) as gpu:
        assert gpu is CARDS[0]
    assert said == []
