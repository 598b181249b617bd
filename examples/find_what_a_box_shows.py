"""Detects on other images the objects that a box on one image shows.

    python examples/find_what_a_box_shows.py engines/b8_q50_r672 shelf.png 110,60,400,320 photos/

Boxes in the prompts of `detect` are positions on the searched image itself. `encode` reads them on their own image,
once, and its result can be detected on any image.
"""

from __future__ import annotations

import sys

import sam3_runtime
from sam3_runtime.core.source_files import expand_images
from sam3_runtime.media.sources import load_image


def main(engines: str, shelf: str, box: str, images: list[str]) -> None:
    x0, y0, x1, y1 = (float(side) for side in box.split(","))
    with sam3_runtime.load(engines) as pipeline:
        encoded = pipeline.encode([sam3_runtime.Prompt(boxes=((x0, y0, x1, y1),))], load_image(shelf))
        for one in expand_images(images):
            (found,) = pipeline.detect([load_image(one.path)], encoded, threshold=0.4)[0]
            print(f"{one.name}: {len(found)} like it")
            for score, found_box in zip(found.scores, found.boxes, strict=True):
                print(f"  {score:.2f} at {', '.join(f'{side:.0f}' for side in found_box)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
