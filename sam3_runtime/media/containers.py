"""What a video file's container promises: where the file ends, and how many frames an MP4 shows.

OpenCV gives the frame count of the header, which is no promise: an edit list shows some of the frames, and containers
without a count have the duration times a guessed rate in its place. What is read here can be relied on. Where a
container promises nothing, or is not understood, nothing is promised. Knows bytes, and decodes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

_MOST_SAMPLES = 10**7  # of one track: four days of video; a damaged table could ask for all memory there is
_LONGEST_TABLE = 1 << 28  # bytes
_HOLLOW = 1 << 12  # bytes


class Promise(NamedTuple):
    """``cut``: the file ends before its container does. ``frames``: how many are shown, to within ``slack``; None where
    the container does not say."""

    cut: bool = False
    frames: int | None = None
    slack: int = 0


def promise_of(path: Path) -> Promise:
    """What the container of the file promises; ``OSError`` where it cannot be read."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(0)
        try:
            if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
                return _mp4(file, size)
            if start[:4] == b"RIFF":
                return Promise(max(_riff_ends(file, size), default=0) > size or _is_hollow(file, size))
            if start[:4] == b"\x1a\x45\xdf\xa3":
                return Promise(max(_ebml_ends(file), default=0) > size or _is_hollow(file, size))
        except (struct.error, ValueError, IndexError, OverflowError):
            pass  # damaged: decoding will show how far it goes
    return Promise()


def _is_hollow(file: BinaryIO, size: int) -> bool:
    """Whether the end was never written: some programs give a file its size first, and then copy into it."""
    file.seek(max(0, size - _HOLLOW))
    return not any(file.read())


# --- RIFF (AVI) and EBML (Matroska, WebM) -----------------------------------------------------------------------------


def _riff_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Where each outermost chunk ends; long files have several."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            return
        place += 8 + length
        yield place


def _ebml_ends(file: BinaryIO) -> Iterator[int]:
    """Where the header and the segment end; a segment that was written live does not say."""
    for _ in range(2):
        _ebml_number(file, keep_marker=True)
        length = _ebml_number(file)
        if length is None:
            return
        file.seek(length, 1)
        yield file.tell()


def _ebml_number(file: BinaryIO, keep_marker: bool = False) -> int | None:
    """A number of 1 to 8 bytes, as many as the first one has leading zeros and a marker; all ones mean: not known."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first]) + file.read(length - 1), "big")
    if keep_marker:
        return value
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value


# --- MP4 and QuickTime ------------------------------------------------------------------------------------------------


class _Box(NamedTuple):
    name: bytes
    start: int
    end: int
    """First byte behind the header, and behind the box."""


def _mp4(file: BinaryIO, size: int) -> Promise:
    frames, slack, end = None, 0, 0
    for box in _boxes(file, 0, size):
        end = box.end
        if box.name == b"moov" and box.end <= size:
            frames, slack = _shown(file, box)
    return Promise(end > size, frames, slack)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    while start + 8 <= end:
        file.seek(start)
        length, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            (length,), header = struct.unpack(">Q", file.read(8)), 16
        if (length < header and length != 0) or not name.isascii():
            return  # no box: what stands behind the last one
        yield _Box(name, start + header, start + length if length else end)
        start += length or end


def _inside(file: BinaryIO, box: _Box, *path: bytes) -> _Box | None:
    """The first box of each name, each in the one before."""
    for name in path:
        found = next((one for one in _boxes(file, box.start, box.end) if one.name == name), None)
        if found is None:
            return None
        box = found
    return box


def _bytes(file: BinaryIO, box: _Box) -> bytes:
    if box.end - box.start > _LONGEST_TABLE:
        raise ValueError(f"{box.name!r} has {box.end - box.start} bytes")
    file.seek(box.start)
    return file.read(box.end - box.start)


def _shown(file: BinaryIO, moov: _Box) -> tuple[int | None, int]:
    """How many frames the first video track shows, edit list applied, and by how many that may be wrong."""
    if _inside(file, moov, b"mvex"):
        return None, 0  # in fragments: each has a table of its own
    for track in _boxes(file, moov.start, moov.end):
        handler = _inside(file, track, b"mdia", b"hdlr") if track.name == b"trak" else None
        if handler and _bytes(file, handler)[8:12] == b"vide":
            break
    else:
        return None, 0
    counts, steps = _pairs(file, track, b"stts", ">u4")
    total = int(counts.sum())
    if not 0 < total <= _MOST_SAMPLES:
        return None, 0
    edits = _inside(file, track, b"edts", b"elst")
    if edits is None:
        return total, 0
    times = np.cumsum(np.repeat(steps, counts)) - np.repeat(steps, counts)
    if _inside(file, track, b"mdia", b"minf", b"stbl", b"ctts"):
        repeats, offsets = _pairs(file, track, b"ctts", ">i4")
        times[: repeats.sum()] += np.repeat(offsets, repeats)[:total]
    scale = _timescale(file, _inside(file, track, b"mdia", b"mdhd")) / _timescale(file, _inside(file, moov, b"mvhd"))
    shown = edited = 0
    for duration, start in _edits(_bytes(file, edits)):
        if start >= 0:  # else nothing is shown for a while
            edited += 1
            last = start + duration * scale if duration else np.inf
            shown += int(((times >= start) & (times < last)).sum())
    return shown, edited


def _pairs(file: BinaryIO, track: _Box, name: bytes, second: str) -> tuple[np.ndarray, np.ndarray]:
    """A table of the track: how many samples in a row have a value, and the value; int64 each."""
    box = _inside(file, track, b"mdia", b"minf", b"stbl", name)
    if box is None:
        raise ValueError(f"no {name!r}")
    data = _bytes(file, box)
    rows = np.frombuffer(data, np.dtype([("count", ">u4"), ("value", second)]), struct.unpack_from(">I", data, 4)[0], 8)
    return rows["count"].astype(np.int64), rows["value"].astype(np.int64)


def _timescale(file: BinaryIO, box: _Box | None) -> int:
    """Ticks a second of a track or of the whole."""
    if box is None:
        raise ValueError("no header")
    data = _bytes(file, box)
    return int(struct.unpack_from(">I", data, 20 if data[0] else 12)[0]) or 1


def _edits(data: bytes) -> Iterator[tuple[int, int]]:
    """Each edit's duration in ticks of the whole, and where it starts in those of the track."""
    layout = struct.Struct(">QqI" if data[0] else ">IiI")
    for place in range(struct.unpack_from(">I", data, 4)[0]):
        duration, start, _ = layout.unpack_from(data, 8 + place * layout.size)
        yield duration, start
