"""What containers promise, on files that OpenCV wrote and that were changed byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sam3_runtime.media.containers import Promise, promise_of
from sam3_runtime.media.sources import read_video
from tests.media.test_sources import cut
from tests.videos import Tree, change, inside, with_edits, with_table_first, with_times, write_clip

SHOWN = {
    ((2000, 0),): 20,
    ((1200, 8),): 12,
    ((300, 5),): 3,
    ((500, -1), (400, 3)): 4,
    ((400, 0), (500, 10)): 9,
    ((0, 5),): 15,
}


@pytest.mark.parametrize("edits", SHOWN)
def test_an_mp4_shows_the_frames_of_its_edit_list(tmp_path: Path, edits: tuple[tuple[int, int], ...]) -> None:
    path = with_edits(write_clip(tmp_path / "clip.mp4"), *edits)
    assert promise_of(path) == Promise(False, SHOWN[edits], sum(start >= 0 for _, start in edits))


def test_what_is_promised_decodes(tmp_path: Path) -> None:
    for edits in list(SHOWN)[:5]:
        with read_video(with_edits(write_clip(tmp_path / "clip.mp4"), *edits)) as video:
            assert len(list(video)) == SHOWN[edits], edits


def test_frames_with_times_of_their_own_are_counted(tmp_path: Path) -> None:
    path = with_times(write_clip(tmp_path / "clip.mp4", 5), [0, 40, 80, 5000, 9000])
    assert promise_of(path) == Promise(False, 5)


def test_an_edit_counts_frames_where_they_are_shown(tmp_path: Path) -> None:
    """With a table of offsets, as where frames are stored in another order than shown: here all come 5 frames later."""

    def shift(tree: Tree) -> None:
        track = inside(tree, b"moov", b"trak")
        ticks = struct.unpack_from(">I", dict(inside(track, b"mdia"))[b"mdhd"], 12)[0] // 10
        row = struct.pack(">IIIi", 0, 1, 20, 5 * ticks)
        inside(track, b"mdia", b"minf", b"stbl").append((b"ctts", row))

    path = with_edits(write_clip(tmp_path / "clip.mp4"), (1000, 0))
    assert promise_of(path).frames == 10
    assert promise_of(change(path, shift)).frames == 5


def test_fragments_promise_no_count(tmp_path: Path) -> None:
    path = change(write_clip(tmp_path / "clip.mp4"), lambda tree: inside(tree, b"moov").append((b"mvex", b"")))
    assert promise_of(path) == Promise()


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "mp4v"), (".mov", "mp4v"), (".avi", "MJPG"), (".mkv", "MJPG"), (".webm", "VP80")],
)
def test_a_file_that_is_cut_is_told_from_a_whole_one(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", codec=codec)
    assert not promise_of(path).cut
    whole = path.read_bytes()
    assert promise_of(cut(path, 0.7)).cut
    if suffix in (".avi", ".mkv", ".webm"):
        path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2 + 5000))
        assert promise_of(path).cut, "given its size, and never written to the end"


def test_what_was_written_live_does_not_say_where_it_ends(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", codec="MJPG")
    data = bytearray(path.read_bytes())
    place = data.index(b"\x18\x53\x80\x67") + 4
    data[place : place + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data)
    assert not promise_of(cut(path, 0.7)).cut


@pytest.mark.parametrize(
    "content",
    [b"", b"RIFF", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x00", b"\0\0\0\x08ftyp\0\0\0\x01", b"text" * 9],
)
def test_what_is_no_video_promises_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip").write_bytes(content)
    assert promise_of(tmp_path / "clip").frames is None


def test_a_table_that_lies_takes_no_memory(tmp_path: Path) -> None:
    def lie(tree: Tree) -> None:
        table = inside(tree, b"moov", b"trak", b"mdia", b"minf", b"stbl")
        table[:] = [(n, struct.pack(">IIII", 0, 1, 2**32 - 1, 1) if n == b"stts" else c) for n, c in table]

    assert promise_of(change(write_clip(tmp_path / "clip.mp4"), lie)).frames is None


def test_whatever_is_changed_in_a_file_ends_nothing(tmp_path: Path) -> None:
    path = with_table_first(with_edits(write_clip(tmp_path / "clip.mp4"), (400, 0), (500, 10)))
    whole = path.read_bytes()
    assert whole.index(b"mdat") > 600, "the table comes first"
    for place in range(0, whole.index(b"mdat"), 3):
        data = bytearray(whole)
        data[place] ^= 0xFF
        path.write_bytes(data)
        assert promise_of(path).slack >= 0
