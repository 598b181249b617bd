"""Scenes with ground truth: coloured shapes over photographs and plain grounds, seeded.

Import from this module. ``scene_layouts`` samples the content of a scene, ``scene_render`` draws it, ``scene_motion``
moves it, ``scene_phrases`` samples prompts, ``scene_files`` writes data sets and videos.

    python -m demo.scenes FOLDER --count 500                        the held-out data set, in COCO format
    python -m demo.scenes FOLDER --count 24 --sheet sheet.png       and a contact sheet of its images
    python -m demo.scenes FOLDER --count 0 --video 90               a video, and the objects of each frame
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from demo.scene_layouts import COLOURS, SIZE, Layout, sample_layout
from demo.scene_motion import moving_layouts
from demo.scene_phrases import (
    ExampleBoxes,
    Phrase,
    classes,
    every_phrase,
    example_boxes,
    phrases,
    phrases_of,
    things_of,
)
from demo.scene_render import boxes_of, render
from demo.scene_shapes import SHAPES
from sam3_runtime.core.wording import counted

__all__ = [
    "COLOURS",
    "HELD_OUT",
    "SHAPES",
    "SIZE",
    "ExampleBoxes",
    "Layout",
    "Phrase",
    "Scene",
    "Thing",
    "boxes_of",
    "classes",
    "every_phrase",
    "example_boxes",
    "phrases",
    "phrases_of",
    "render",
    "sample_layout",
    "scene",
    "things_of",
    "training_stream",
    "video",
    "write_coco",
    "write_sheet",
    "write_video",
]

HELD_OUT = 10_000_000
"""Held-out scenes are ``scene(HELD_OUT + i)``. Training draws from :func:`training_stream`, which never yields them."""

_TRAINING, _VIDEO = 1, 2  # first words of longer seeds, which no single number equals
_FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Thing:
    """One object: ``box`` float32 [4] xyxy pixels, tight around ``mask`` bool [H, W], the visible part."""

    shape: str
    colour: str
    identity: int
    box: NDArray[np.float32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """An image uint8 [H, W, 3] RGB, and its visible objects, the nearest last."""

    image: NDArray[np.uint8]
    things: tuple[Thing, ...]


def training_stream(*numbers: int) -> np.random.Generator:
    """Return a generator for training, distinguished by ``numbers`` (seed, rank, worker, step ...)."""
    return np.random.default_rng([_TRAINING, *numbers])


def scene(seed: int, size: tuple[int, int] = SIZE) -> Scene:
    """Return the scene of a seed, of ``size`` (height, width): the same bytes each time."""
    return next(_drawn([sample_layout(np.random.default_rng(seed), size)]))


def video(seed: int, frames: int, size: tuple[int, int] = SIZE, fps: float = 25) -> Iterator[Scene]:
    """Yield the frames of a scene whose objects move, cross, leave and enter; ``identity`` is constant over frames."""
    layouts = list(moving_layouts(np.random.default_rng([_VIDEO, seed]), frames, size, fps))
    for start in range(0, frames, _FRAMES_AT_ONCE):
        yield from _drawn(layouts[start : start + _FRAMES_AT_ONCE])


def _drawn(layouts: Sequence[Layout]) -> Iterator[Scene]:
    images, ids = render(layouts, "cpu")
    boxes = boxes_of(ids, max(len(layout.things) for layout in layouts)).numpy()
    for index, layout in enumerate(layouts):
        masks = ((number, (ids[index] == number).numpy()) for number in range(len(layout.things)))
        names = classes(layout)
        things = tuple(
            Thing(*names[number], int(layout.things["identity"][number]), boxes[index, number], mask)
            for number, mask in masks
            if mask.sum() >= layout.least_pixels
        )
        yield Scene(np.ascontiguousarray(images[index].permute(1, 2, 0).numpy()), things)


def write_coco(folder: Path, seeds: Sequence[int], size: tuple[int, int] = SIZE) -> Path:
    """Write the scenes of ``seeds`` as a data set in COCO format: see :func:`demo.scene_files.coco_data_set`."""
    from demo.scene_files import coco_data_set

    return coco_data_set(folder, ((seed, scene(seed, size)) for seed in seeds))


def write_video(path: Path, seed: int, frames: int, size: tuple[int, int] = SIZE, fps: float = 25) -> Path:
    """Write a video (MP4) and its ground truth: see :func:`demo.scene_files.video_with_truth`."""
    from demo.scene_files import video_with_truth

    return video_with_truth(path, video(seed, frames, size, fps), fps)


def write_sheet(path: Path, seeds: Sequence[int], columns: int = 4, size: tuple[int, int] = SIZE) -> None:
    """Write one image of many scenes, each beside a copy with its masks and boxes."""
    from demo.scene_files import contact_sheet

    contact_sheet(path, [scene(seed, size) for seed in seeds], columns)


def main() -> int:
    from sam3_runtime.core.errors import Sam3Error

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500, help="scenes of the data set")
    parser.add_argument("--seed", type=int, default=HELD_OUT, help="of the first scene; the next ones follow")
    parser.add_argument("--side", type=int, default=SIZE[0], help="pixels")
    parser.add_argument("--sheet", type=Path, help="also write one image of the first 24 scenes to this file")
    parser.add_argument("--video", type=int, default=0, metavar="FRAMES", help="also write a video of that many frames")
    arguments = parser.parse_args()
    size = (arguments.side, arguments.side)
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    # Scenes are small: two threads draw 500 in 31 s, and 64 threads had drawn 170 after three minutes.
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    try:
        if seeds:
            print(f"wrote {write_coco(arguments.folder, seeds, size)}: {counted(len(seeds), 'scene')}")
        if arguments.sheet:
            write_sheet(arguments.sheet, seeds[:24], size=size)
            print(f"wrote {arguments.sheet}")
        if arguments.video:
            path = arguments.folder / "video.mp4"
            print(f"wrote {path} and {write_video(path, arguments.seed, arguments.video, size)}")
    except Sam3Error as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
