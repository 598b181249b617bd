"""The accuracy of float32 PyTorch is measured on the images that can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam3_runtime.evaluation.data_set import ConceptData
from sam3_runtime.evaluation.reference import read_accuracy_reference
from sam3_runtime.families.sam3.export import accuracy
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections, rle_to_mask
from sam3_runtime.imaging.preprocess import Image
from tests.concepts import coco_file, write


class Knowing:
    """A detector that finds what the data set has; it recognises images by their pixels."""

    data: ConceptData

    def __init__(self, *_: Any) -> None:
        self._known = {one.read().tobytes(): one.id for one in self.data.images}
        self._numbers = {one.name: number for number, one in self.data.categories.items()}

    def __call__(
        self, images: Sequence[Image], prompts: Sequence[Sequence[Prompt]], floor: float
    ) -> Iterator[list[Detections]]:
        del floor
        for image, some in zip(images, prompts, strict=True):
            yield [self._find(image, index, prompt) for index, prompt in enumerate(some)]

    def _find(self, image: Image, index: int, prompt: Prompt) -> Detections:
        there = self.data.instances.get((self._known[image.tobytes()], self._numbers[prompt.name]), ())
        boxes = np.asarray([one.box for one in there], np.float32).reshape(-1, 4)
        masks = (
            np.stack([rle_to_mask(one.mask or {}) for one in there]) if there else np.zeros((0, *image.shape[:2]), bool)
        )
        return Detections(prompt.name, index, boxes, np.full(len(there), 0.9, np.float32), masks, np.arange(len(there)))


def test_images_that_cannot_be_read_are_left_out_of_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, coco_file())
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "5.png").unlink()
    readable = accuracy._readable

    def remember(data: ConceptData) -> ConceptData:
        Knowing.data = readable(data)
        return Knowing.data

    monkeypatch.setattr(accuracy, "_readable", remember)
    monkeypatch.setattr(accuracy, "TorchDetector", Knowing)
    lock: Any = SimpleNamespace(digest="d", checkpoint="demo")
    data = {"annotations": str(path)}
    accuracy.compute_accuracy(lock, tmp_path / "reached.safetensors", resolution=224, data=data, limit=6)
    printed = capsys.readouterr().out
    assert printed.count("left out: ") == 2
    assert "left out, see above: 2 of the 6 images of annotations.json" in printed
    reference = read_accuracy_reference(tmp_path / "reached.safetensors")
    assert [image.id for image in reference.data.images] == [1, 3, 4, 6]
    assert reference.accuracy.pairs == 16
    assert reference.accuracy.box.ap == pytest.approx(1)
