"""Counts the objects of each class in videos or cameras, each object once.

    python examples/count_tracks.py shop.npz engines/b8_q50_r672 clip.mp4 camera:0

Ends with the last video, or with Ctrl-C.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import sam3_runtime


def main(classes: str, engines: str, sources: list[str]) -> None:
    seen: dict[tuple[str, str], set[int]] = defaultdict(set)
    with sam3_runtime.open_detector(engines, classes) as detector:
        try:
            for result in sam3_runtime.stream(detector, sources, track=True, report=print):
                for found, ids in zip(result.detections, result.tracks or [], strict=True):
                    seen[result.source, found.prompt].update(ids[ids >= 0].tolist())
        except KeyboardInterrupt:
            print("ended")
    for (source, name), tracks in seen.items():
        print(f"{source}: {len(tracks)} {name}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
