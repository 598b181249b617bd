"""Counts the objects in a video: how many of each kind, and for how long each was visible.

    python examples/count_things.py engines/b8_q50_r672 street.mp4 person bicycle

One pipeline, one tracker for the video. Cameras, several sources and annotated videos: `sam3-runtime stream --track`.
"""

from __future__ import annotations

import sys
from collections import Counter

import sam3_runtime
from sam3_runtime.media.sources import read_video
from sam3_runtime.tracking.tracker import NO_TRACK


def main(engines: str, path: str, words: list[str]) -> None:
    frames_seen: list[Counter[int]] = [Counter() for _ in words]  # by id
    with sam3_runtime.load(engines) as pipeline, read_video(path) as video:
        tracker = sam3_runtime.Tracker(len(words), video.info.fps)
        for image in video:
            found = pipeline.detect([image], words)[0]
            for counter, ids in zip(frames_seen, tracker.update(found), strict=True):
                counter.update(ids[ids != NO_TRACK].tolist())
    for word, counter in zip(words, frames_seen, strict=True):
        print(f"{word}: {len(counter)}")
        for one, frames in counter.most_common():
            print(f"  #{one} for {frames / video.info.fps:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
