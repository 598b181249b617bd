"""Reads from a video file's container whether the file is complete, and how many frames an MP4 shows.

OpenCV returns the frame count of the header, which is not reliable: an edit list shows only some of the frames, and for
containers without a count it is the duration times a guessed rate. Where a container does not have these facts, or is
not understood, nothing is promised. Works on bytes, and decodes nothing.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

_MOST_SAMPLES = 10**7  # of one track: four days of video; a damaged table could request all memory there is
_LONGEST_TABLE = 1 << 28  # bytes
_TAIL = 1 << 12  # bytes
_TABLES = (b"mdia", b"minf", b"stbl")


class Promise(NamedTuple):
    """``cut``: the file ends before its container does.

    ``frames``: the number of shown frames, to within ``slack``; None where the container does not have it.
    """

    cut: bool = False
    frames: int | None = None
    slack: int = 0


def promise_of(path: Path) -> Promise:
    """Read the promise of the file's container; ``OSError`` if the file cannot be read."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(0)
        try:
            if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
                return _mp4(file, size)
            ends = {b"RIFF": _riff_ends, b"\x1a\x45\xdf\xa3": _ebml_ends}.get(start[:4])
            if ends is not None:
                return Promise(max(ends(file), default=0) > size or _has_empty_tail(file, size))
        except (struct.error, ValueError, IndexError, OverflowError):
            pass  # damaged: decoding will show how far it goes
    return Promise()


def _has_empty_tail(file: BinaryIO, size: int) -> bool:
    """Whether the end was never written: some programs allocate a file of the final size, and then copy into it."""
    file.seek(max(0, size - _TAIL))
    return not any(file.read())


# --- RIFF (AVI) and EBML (Matroska, WebM) -----------------------------------------------------------------------------


def _riff_ends(file: BinaryIO) -> Iterator[int]:
    """Return the end of each outermost chunk; long files have several."""
    position = 0
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name != b"RIFF":
            return
        position += 8 + length
        yield position
        file.seek(position)


def _ebml_ends(file: BinaryIO) -> Iterator[int]:
    """Return the ends of the header and of the segment; a segment that was written live has none."""
    for _ in range(2):
        _ebml_number(file)  # the element's id
        length, unknown = _ebml_number(file)
        if length == unknown:
            return
        file.seek(length, 1)
        yield file.tell()


def _ebml_number(file: BinaryIO) -> tuple[int, int]:
    """Return a number of 1 to 8 bytes (leading zeros of the first, plus one), and the value that means unknown."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    unknown = (1 << 7 * length) - 1
    return int.from_bytes(bytes([first]) + file.read(length - 1), "big") & unknown, unknown


# --- MP4 and QuickTime ------------------------------------------------------------------------------------------------


def _mp4(file: BinaryIO, size: int) -> Promise:
    frames, slack, end = None, 0, 0
    for name, start, end in _boxes(file, size):
        if name == b"moov" and end <= size and end - start <= _LONGEST_TABLE:
            file.seek(start)
            frames, slack = _shown(file.read(end - start))
    return Promise(end > size, frames, slack)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Return the name of each box, and the start and end of its content."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            (length,), header = struct.unpack(">Q", file.read(8)), 16
        if (length < header and length != 0) or not name.isascii():
            return  # not a box: other bytes follow the last one
        end = position + length if length else size
        yield name, position + header, end
        position = end


def _contents(data: bytes, name: bytes) -> list[bytes]:
    return [data[start:end] for one, start, end in _boxes(io.BytesIO(data), len(data)) if one == name]


def _inside(data: bytes, *path: bytes) -> bytes:
    """Return the content of the first box of each name, each inside the one before; empty if there is none."""
    for name in path:
        data = next(iter(_contents(data, name)), b"")
    return data


def _shown(moov: bytes) -> tuple[int | None, int]:
    """How many frames the first video track shows, edit list applied, and the possible error of that number."""
    tracks = [track for track in _contents(moov, b"trak") if _inside(track, b"mdia", b"hdlr")[8:12] == b"vide"]
    if not tracks or _contents(moov, b"mvex"):  # mvex: in fragments, each with a table of its own
        return None, 0
    track = tracks[0]
    counts, steps = _pairs(_inside(track, *_TABLES, b"stts"), ">u4")
    total = int(counts.sum())
    if not 0 < total <= _MOST_SAMPLES:
        return None, 0
    edits = _inside(track, b"edts", b"elst")
    if not edits:
        return total, 0
    times = np.cumsum(np.repeat(steps, counts)) - np.repeat(steps, counts)
    if offset_table := _inside(track, *_TABLES, b"ctts"):
        repeats, offsets = _pairs(offset_table, ">i4")
        times[: repeats.sum()] += np.repeat(offsets, repeats)[:total]
    scale = _timescale(_inside(track, b"mdia", b"mdhd")) / _timescale(_inside(moov, b"mvhd"))
    shown = edited = 0
    for duration, start in _edits(edits):
        if start >= 0:  # else nothing is shown for a while
            edited += 1
            last = start + duration * scale if duration else np.inf
            shown += int(((times >= start) & (times < last)).sum())
    return shown, edited


def _pairs(table: bytes, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a run-length table of a track: counts of samples, and the value of each run; int64."""
    layout = np.dtype([("count", ">u4"), ("value", second)])
    rows = np.frombuffer(table, layout, struct.unpack_from(">I", table, 4)[0], 8)
    return rows["count"].astype(np.int64), rows["value"].astype(np.int64)


def _timescale(header: bytes) -> int:
    """Ticks per second of a track or of the movie."""
    return int(struct.unpack_from(">I", header, 20 if header[0] else 12)[0]) or 1


def _edits(table: bytes) -> Iterator[tuple[int, int]]:
    """Each edit's duration in ticks of the movie, and its start in ticks of the track."""
    layout = struct.Struct(">QqI" if table[0] else ">IiI")
    for index in range(struct.unpack_from(">I", table, 4)[0]):
        duration, start, _ = layout.unpack_from(table, 8 + index * layout.size)
        yield duration, start
