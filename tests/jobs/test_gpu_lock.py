"""One job at a time on each GPU, across processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("filelock")

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.gpus import Gpu
from sam3_runtime.jobs import gpu_lock
from sam3_runtime.jobs.gpu_lock import hold_gpu

CARDS = tuple(Gpu("NVIDIA H200", "9.0", "580.65", 141 << 30, f"GPU-{name}") for name in "ab")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards, and a folder for temporary files of the test's own."""
    monkeypatch.setattr(gpu_lock, "find_gpus", lambda: CARDS)
    monkeypatch.setattr(gpu_lock.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


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
    with pytest.raises(WorkFolderError, match=r"names GPU 7, but this machine shows 2"), hold_gpu([7]):
        pass


@pytest.mark.parametrize("kind", ["link", "file", "open to others", "of another user"])
def test_a_folder_that_others_may_have_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / f"sam3-runtime-{os.getuid()}"
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    if kind == "link":
        folder.symlink_to(victim)
    elif kind == "file":
        folder.touch(mode=0o700)
    elif kind == "open to others":
        folder.mkdir()
        folder.chmod(0o770)
    else:
        monkeypatch.setattr(gpu_lock.os, "getuid", lambda: 4242)
    with (
        pytest.raises(
            WorkFolderError, match=r"is not a folder that only this user owns.*\nHint: remove it, or let TMPDIR"
        ),
        hold_gpu([0]),
    ):
        pass
    assert list(victim.iterdir()) == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_folder_of_the_locks_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with hold_gpu([0]):
            (folder,) = tmp_path.iterdir()
            assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, os.getuid())
            assert {path.name for path in folder.iterdir()} == {"GPU-a.lock", "GPU-a.holder"}
    finally:
        os.umask(before)
    with hold_gpu([0]) as again:
        assert again is CARDS[0]


def test_a_slice_of_a_card_is_held_by_its_own_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "MIG-GPU-a/1/0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    monkeypatch.setattr(gpu_lock, "find_gpus", lambda: (replace(CARDS[0], uuid=name),))
    with hold_gpu([0]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == name
        assert (tmp_path / f"sam3-runtime-{os.getuid()}/MIG-GPU-a-1-0.lock").is_file()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == name


HOLDER = """
import sys, tempfile
from sam3_runtime.jobs import gpu_lock
from sam3_runtime.core.gpus import Gpu
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
    assert f"GPU 0 is held by process {holder.pid} in {Path.cwd()}" in said[0]


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
