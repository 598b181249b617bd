"""Writes scenes to files: data sets in COCO format, videos with ground truth, contact sheets.

Independent of how scenes are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from demo.scene_layouts import COLOURS
from demo.scene_phrases import every_phrase, phrases, phrases_of
from demo.scene_shapes import SHAPES
from sam3_runtime.core.files import write_atomically
from sam3_runtime.imaging.drawing import draw
from sam3_runtime.imaging.postprocess import Detections, mask_to_rle
from sam3_runtime.media.sinks import VideoSink, write_image

if TYPE_CHECKING:
    from demo.scenes import Scene, Thing

PROMPTS = 6  # phrases that an image is prompted with
_PROMPTING = 3  # first word of the seeds of those phrases


def coco_data_set(folder: Path, scenes: Iterable[tuple[int, Scene]]) -> Path:
    """Write seeded scenes as ``annotations.json`` (whose path is returned) and ``images/``.

    Categories are phrases, so an object has three annotations: as "red circle", "circle" and "red object". The
    categories that an image is prompted with are its ``prompted_category_ids``; about a third are absent from it.
    """
    categories = {text: index for index, text in enumerate(every_phrase(), 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (seed, scene) in enumerate(scenes, 1):
        name = f"images/{seed:08d}.png"
        write_image(folder / name, scene.image)
        height, width = scene.image.shape[:2]
        asked = phrases(scene, np.random.default_rng([_PROMPTING, seed]), PROMPTS)
        prompted = [categories[phrase.text] for phrase in asked]
        images.append(
            {"id": number, "file_name": name, "width": width, "height": height, "prompted_category_ids": prompted}
        )
        for thing in scene.things:
            placed = {"image_id": number, **_placed(thing), "iscrowd": 0}
            for text in phrases_of(thing.shape, thing.colour):
                annotations.append({"id": len(annotations) + 1, "category_id": categories[text], **placed})
    # A box around a red circle shows its shape and its colour: it cannot mean "circle" or "red object".
    both = {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES}
    listed = [{"id": index, "name": text, "exemplar": text in both} for text, index in categories.items()]
    data = {"images": images, "categories": listed, "annotations": annotations}
    path = folder / "annotations.json"
    write_atomically(path, json.dumps(data).encode())
    return path


def video_with_truth(path: Path, frames: Iterable[Scene], fps: float) -> Path:
    """Write an MP4, and a JSON file beside it; return the path of the JSON file.

    It lists the frames, each with its visible objects in the form of multi-object tracking: an identity that is
    constant over frames, a box (left, top, width, height), a mask as COCO's RLE, an area in pixels, and the class.
    """
    truth: list[list[dict[str, Any]]] = []
    with VideoSink(path, fps) as sink:
        for scene in frames:
            sink.write(scene.image)
            truth.append(
                [
                    {"identity": thing.identity, "shape": thing.shape, "colour": thing.colour, **_placed(thing)}
                    for thing in scene.things
                ]
            )
    beside = path.with_suffix(".json")
    write_atomically(beside, json.dumps({"fps": fps, "frames": truth}).encode())
    return beside


def contact_sheet(path: Path, scenes: Sequence[Scene], columns: int) -> None:
    """Write the images in rows of ``columns``, each beside a copy with masks, boxes and names."""
    pairs = [np.hstack([scene.image, draw(scene.image, _named(scene))]) for scene in scenes]
    pairs += [np.zeros_like(pairs[0])] * (-len(pairs) % columns)
    rows = [np.hstack(pairs[start : start + columns]) for start in range(0, len(pairs), columns)]
    write_image(path, np.vstack(rows))


def _placed(thing: Thing) -> dict[str, Any]:
    left, top, right, bottom = thing.box.tolist()
    box = [left, top, right - left, bottom - top]
    return {"bbox": box, "segmentation": mask_to_rle(thing.mask), "area": int(thing.mask.sum())}


def _named(scene: Scene) -> list[Detections]:
    """Return each object as a detection of its own name."""
    one: NDArray[np.float32] = np.ones(1, np.float32)
    query = np.zeros(1, np.int64)
    return [
        Detections(f"{thing.colour} {thing.shape}", index, thing.box[None], one, thing.mask[None], query)
        for index, thing in enumerate(scene.things)
    ]
