"""Writes the detections of many frames as one file in COCO's format, with RLE masks and scores.

``images`` has the source and frame of each id, ``categories`` are the classes, and ``annotations`` are results as
``pycocotools``' ``loadRes`` takes them. Frames are written as they come: memory does not grow with them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam3_runtime.core.files import temporary_name
from sam3_runtime.media.sinks import reported


class CocoFile:
    """The COCO file of one run; it appears with :meth:`close`. Not thread-safe.

    Raises :class:`OutputError` where the file cannot be written.
    """

    def __init__(self, path: Path, sources: Sequence[str], classes: Sequence[str]) -> None:
        self.path = path
        self._sources = {name: index for index, name in enumerate(sources)}
        self._temporary = temporary_name(path)
        self._annotations = self._frames = 0
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "w+", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed in close)
            self._images = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=path.parent)  # noqa: SIM115
            self._file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')

    def write(
        self, source: str, number: int, seconds: float, line: Mapping[str, Any], categories: Sequence[int]
    ) -> None:
        """Write a frame: its JSON ``line``, and the class (from 0) of each of its detections."""
        # The id does not depend on the order in which frames of different sources come.
        image = number * len(self._sources) + self._sources[source] + 1
        entry = {"id": image, "source": source, "frame": number, "seconds": seconds}
        entry |= {"width": line["width"], "height": line["height"]}
        if "image" in line:
            entry["file_name"] = line["image"]
        with reported(self.path):
            self._images.write((",\n" if self._frames else "\n") + json.dumps(entry, ensure_ascii=False))
            self._frames += 1
            for found, category in zip(line["detections"], categories, strict=True):
                annotation = {"id": self._annotations + 1, "image_id": image, **_annotation(found, category)}
                self._file.write((",\n" if self._annotations else "\n") + json.dumps(annotation))
                self._annotations += 1

    def close(self) -> None:
        """Finish the file and rename it."""
        try:
            with reported(self.path):
                self._file.write('],\n"images": [')
                self._images.seek(0)
                shutil.copyfileobj(self._images, self._file)
                self._file.write("]}\n")
                self._file.close()
                self._temporary.replace(self.path)
        finally:
            self._images.close()
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def _annotation(found: Mapping[str, Any], category: int) -> dict[str, Any]:
    x0, y0, x1, y1 = found["box"]
    box = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
    track = {"track_id": found["track"]} if found.get("track") is not None else {}
    return {"category_id": category + 1, "bbox": box, "score": found["score"], "segmentation": found["mask"], **track}
