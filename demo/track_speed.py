"""Measures the tracker's time per frame: many objects, masks at the size of the image, one core.

python -m demo.track_speed
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np

from sam3_runtime.imaging.postprocess import Detections, PackedMasks
from sam3_runtime.tracking.tracker import Tracker

_SIZE = (1080, 1920)
_FPS, _FRAMES, _WARM_UP = 25.0, 30, 5
_CASES = ((1, 50), (4, 50), (1, 200), (4, 200))  # classes, objects of each


def wandering(classes: int, objects: int, seed: int = 0) -> Iterator[list[Detections]]:
    """Yield frames of objects of 20 to 160 pixels that move by up to 8 pixels per frame; masks packed as on a GPU."""
    random = np.random.default_rng(seed)
    height, width = _SIZE
    centre = random.uniform(0, (width, height), (classes, objects, 2))
    velocity = random.uniform(-8, 8, (classes, objects, 2))
    half = random.uniform(10, 80, (classes, objects, 2))
    bits = np.zeros((classes, objects, height, width // 8), np.uint8)
    for _ in range(_FRAMES):
        centre += velocity
        boxes = np.concatenate([centre - half, centre + half], -1)
        bits[:] = 0
        for mask, (left, top, right, bottom) in zip(
            bits.reshape(-1, height, width // 8), boxes.reshape(-1, 4).astype(int).clip(0), strict=True
        ):
            mask[top:bottom, left // 8 : right // 8] = 255
        scores = random.uniform(0.4, 1, (classes, objects)).astype(np.float32)
        yield [
            Detections(
                f"class {number}", number, boxes[number].astype(np.float32), scores[number],
                PackedMasks(bits[number], _SIZE), np.arange(objects),
            )
            for number in range(classes)
        ]  # fmt: skip


def milliseconds(classes: int, objects: int) -> list[float]:
    """Return the CPU time of each frame in ms, of this process (one thread)."""
    tracker = Tracker(classes, _FPS)
    taken = []
    for found in wandering(classes, objects):
        start = time.process_time()
        tracker.update(found)
        taken.append(1e3 * (time.process_time() - start))
    return taken[_WARM_UP:]


def main() -> int:
    print("| classes | objects of each | median ms | most ms |\n|---|---|---|---|")
    for classes, objects in _CASES:
        taken = milliseconds(classes, objects)
        print(f"| {classes} | {objects} | {statistics.median(taken):.1f} | {max(taken):.1f} |")
    print(f"\n{_FRAMES - _WARM_UP} frames of {_SIZE[1]} × {_SIZE[0]}, CPU time, {os.cpu_count()} cores, one used")
    return 0


if __name__ == "__main__":
    sys.exit(main())
