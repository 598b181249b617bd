"""Videos that OpenCV does not write, made of those that it does: with edit lists, times of their own, moved tables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
Tree = list[tuple[bytes, Any]]
"""Boxes: a name, and the content or the boxes inside."""


def write_clip(path: Path, frames: int = 20, size: tuple[int, int] = (64, 48), codec: str = "mp4v") -> Path:
    """A video of 10 frames a second, of ``size`` (width, height); frame n is grey of value 10 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), number * 10 % 256, np.uint8))
    writer.release()
    return path


def change(path: Path, edit: Callable[[Tree], None]) -> Path:
    """Write an MP4 again after ``edit`` of its boxes. Samples keep their places if nothing before them changes."""
    tree = _parse(path.read_bytes())
    edit(tree)
    path.write_bytes(_build(tree))
    return path


def inside(tree: Tree, *names: bytes) -> Tree:
    for name in names:
        tree = next(content for known, content in tree if known == name)
    return tree


def with_edits(path: Path, *edits: tuple[int, int]) -> Path:
    """Show of a clip only these stretches: milliseconds, and the frame that each begins with (-1: nothing)."""

    def edit(tree: Tree) -> None:
        track = inside(tree, b"moov", b"trak")
        header = dict(inside(track, b"mdia"))[b"mdhd"]
        ticks = struct.unpack_from(">I", header, 12)[0] // 10  # of a frame
        rows = [struct.pack(">IiI", length, start * ticks if start >= 0 else -1, 1 << 16) for length, start in edits]
        content = struct.pack(">II", 0, len(rows)) + b"".join(rows)
        track[:] = [box for box in track if box[0] != b"edts"]
        track.insert(1, (b"edts", [(b"elst", content)]))

    return change(path, edit)


def with_times(path: Path, times: Sequence[int]) -> Path:
    """Give the frames of a clip these times in milliseconds."""

    def edit(tree: Tree) -> None:
        track = inside(tree, b"moov", b"trak")
        track[:] = [box for box in track if box[0] != b"edts"]
        media, table = inside(track, b"mdia"), inside(track, b"mdia", b"minf", b"stbl")
        steps = [later - earlier for earlier, later in pairwise(times)] + [40]
        rows = struct.pack(">II", 0, len(steps)) + b"".join(struct.pack(">II", 1, step) for step in steps)
        table[:] = [(name, rows if name == b"stts" else content) for name, content in table]
        for place, (name, content) in enumerate(media):
            if name == b"mdhd":
                media[place] = name, content[:12] + struct.pack(">II", 1000, times[-1] + 40) + content[20:]

    return change(path, edit)


def with_table_first(path: Path) -> Path:
    """Move the table before the frames, as files for the web have it: cut off, they can still be opened."""

    def edit(tree: Tree) -> None:
        moved = next(box for box in tree if box[0] == b"moov")
        table = inside([moved], b"moov", b"trak", b"mdia", b"minf", b"stbl")
        for place, (name, content) in enumerate(table):
            if name == b"stco":
                places = np.frombuffer(content, ">u4", offset=8) + len(_build([moved]))
                table[place] = name, content[:8] + places.astype(">u4").tobytes()
        tree.remove(moved)
        tree.insert(1, moved)

    return change(path, edit)


def with_odd_size(path: Path) -> Path:
    """Make a clip of JPEGs, of 162 x 122 pixels, one of 161 x 121: the last row and column are filling in any case."""
    path.write_bytes(
        path.read_bytes().replace(b"\x08" + struct.pack(">HH", 122, 162), b"\x08" + struct.pack(">HH", 121, 161))
    )
    return path


def _parse(data: bytes) -> Tree:
    tree, place = [], 0
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + length]
        tree.append((name, _parse(content) if name in _PARENTS else content))
        place += length
    return tree


def _build(tree: Tree) -> bytes:
    built = b""
    for name, content in tree:
        data = _build(content) if isinstance(content, list) else content
        built += struct.pack(">I4s", 8 + len(data), name) + data
    return built
