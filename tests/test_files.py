"""Files are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam3_runtime.files import (
    digest_of,
    link_relatively,
    remove_abandoned_parts,
    sha256_of,
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


def test_abandoned_parts_go_and_others_stay(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    abandoned, mine = tmp_path / f".x.onnx.{gone.pid}.part", tmp_path / f".y.onnx.{os.getpid()}.part"
    for path in (abandoned, mine, tmp_path / "z.part"):
        path.touch()
    folder = tmp_path / f".key.{gone.pid}.part"
    folder.mkdir()
    (folder / "half.engine").touch()
    assert sorted(remove_abandoned_parts(tmp_path)) == sorted([abandoned, folder])
    assert not folder.exists()
    assert mine.exists()


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
