"""Files are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.core.errors import OutputError
from sam3_runtime.core.files import (
    Owner,
    ProcessState,
    check_writable,
    digest_of,
    link_relatively,
    remove_abandoned_parts,
    sha256_of,
    temporary_name,
    this_process,
    write_atomically,
    written_whole,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_atomically(target, b"old")

    def fail_halfway() -> None:
        with written_whole(target) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def gone() -> Owner:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(this_process(), pid=process.pid)


def test_abandoned_parts_go_and_others_stay(tmp_path: Path, gone: Owner) -> None:
    abandoned, mine = tmp_path / f".x.onnx.{gone}.part", temporary_name(tmp_path / "y.onnx")
    elsewhere = tmp_path / f".x.onnx.{replace(gone, host='other')}.part"
    for path in (abandoned, mine, elsewhere, tmp_path / "z.part"):
        path.touch()
    folder = tmp_path / f".key.{gone}.part"
    folder.mkdir()
    (folder / "half.engine").touch()
    assert remove_abandoned_parts(tmp_path, "y.onnx") == []
    assert sorted(remove_abandoned_parts(tmp_path)) == sorted([abandoned, folder])
    assert not folder.exists()
    assert mine.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, ProcessState.GONE),
        ({"pid": os.getpid()}, ProcessState.RUNNING),
        ({"boot": "earlier", "pid": os.getpid()}, ProcessState.GONE),  # the machine was started again since
        ({"host": "other", "pid": os.getpid()}, ProcessState.ELSEWHERE),
        ({"namespace": "7", "pid": os.getpid()}, ProcessState.ELSEWHERE),  # another container
    ],
)
def test_a_process_is_one_of_a_machine_a_start_and_a_container(
    gone: Owner, change: dict[str, Any], state: ProcessState
) -> None:
    owner = replace(gone, **change)
    assert Owner.parse(str(owner)) == owner
    assert owner.state() is state


@pytest.mark.parametrize("text", ["", "a", "1-2", "host-boot-1-x", "a-b-c-d-1"])
def test_what_names_no_process_is_no_owner(text: str) -> None:
    assert Owner.parse(text) is None


def test_what_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new/result.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"result\.json cannot be written"):
        check_writable(tmp_path / "file/result.json")


def test_links_are_relative_and_replaced(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "store" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "store" / name).write_text(name)
        link_relatively(tmp_path / "variant/engine", tmp_path / "store" / name)
    assert (tmp_path / "variant/engine").readlink() == Path("../store/two")
    (tmp_path / "moved").mkdir()
    (tmp_path / "store").rename(tmp_path / "moved/store")
    (tmp_path / "variant").rename(tmp_path / "moved/variant")
    assert (tmp_path / "moved/variant/engine").read_text() == "two"


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_of() == empty
    assert (
        sha256_of(tmp_path / "a", tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert digest_of({"b": 1, "a": [1, 2]}) == digest_of({"a": [1, 2], "b": 1})
