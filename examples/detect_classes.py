"""Detects the classes of a project on images: they are encoded once, and then two engines are enough.

    python examples/detect_classes.py examples/shop.yaml engines/b8_q50_r672 photos/*.jpg

The first run writes the prompt bank shop.npz beside the project. Later runs read it and open neither the text nor the
geometry encoder; delete it after an edit of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

import sam3_runtime
from sam3_runtime.core.source_files import expand_images
from sam3_runtime.imaging.drawing import draw
from sam3_runtime.media.sinks import write_image
from sam3_runtime.media.sources import load_image


def main(project: Path, engines: Path, images: list[str]) -> None:
    bank = project.with_suffix(".npz")
    if not bank.exists():
        with sam3_runtime.load(engines) as pipeline:
            sam3_runtime.extract(pipeline, sam3_runtime.read_project(project)).save(bank)
    with sam3_runtime.open_detector(engines, bank) as detector:
        print(detector.saved)
        colors = [info.color for info in detector.classes]
        for one in expand_images(images):
            image = load_image(one.path)
            found = detector.detect([image])[0]
            for info, detections in zip(detector.classes, found, strict=True):
                print(f"{one.name}: {len(detections)} {info.name} above {info.threshold:g}")
            write_image(Path("found") / f"{Path(one.name).stem}.png", draw(image, found, colors))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
