"""Measures the accuracy of transformers' ``Sam3Model`` in float32 on a concept data set.

Its outputs go through the same postprocessing and the same metrics as those of engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3_runtime.core.errors import CheckpointError, ExportError, SourceError
from sam3_runtime.core.wording import counted
from sam3_runtime.evaluation.data_set import ConceptData, DataSetError, read_concepts
from sam3_runtime.evaluation.metrics import THRESHOLD, measure
from sam3_runtime.evaluation.questions import answer_all, check_phrases, questions_of
from sam3_runtime.evaluation.reference import AccuracyReference, write_accuracy_reference
from sam3_runtime.families.sam3.export.reference import LARGEST_FILE, make_processor
from sam3_runtime.families.sam3.export.weights import load_model
from sam3_runtime.families.sam3.postprocess import detections_of
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.postprocess import Detections, Size
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.records.records import CheckpointLock

LEAST_AP = 0.05
"""With less, the reference is too weak to show what a variant loses."""


def compute_accuracy(
    lock: CheckpointLock, output: Path, *, resolution: int, data: Mapping[str, str], limit: int
) -> None:
    """Run all phrases of ``data`` on its first ``limit`` images; write the accuracy and the images to ``output``.

    Raises :class:`DataSetError` for the data set, :class:`ExportError` where its images make the file too large, and
    :class:`CheckpointError` where the model finds next to nothing.
    """
    images = Path(data["images"]) if "images" in data else None
    concepts = _readable(read_concepts(Path(data["annotations"]), images, limit=limit))
    size = sum(3 * image.size[0] * image.size[1] for image in concepts.images)
    if size > LARGEST_FILE:
        raise ExportError(
            f"{counted(len(concepts.images), 'image')}: {size / 1e6:.0f} MB, more than {LARGEST_FILE / 1e6:.0f}",
            "lower accuracy.limit, or use smaller images",
        )
    detect = TorchDetector(lock, resolution, concepts.phrases)
    answers = [one for listed in answer_all(questions_of(concepts), detect, batch=1) for one in listed]
    found = measure(concepts, answers, THRESHOLD)
    print(f"float32 PyTorch at {resolution}: {found.model_dump_json()}")
    if (found.box.ap or 0.0) < LEAST_AP:
        raise CheckpointError(
            f"the reference of {lock.checkpoint} finds next to nothing on {concepts.name}: "
            f"its box AP is {found.box.ap}",
            "its categories must be phrases that the model was trained on; with random weights, leave `accuracy:` out",
        )
    write_accuracy_reference(output, AccuracyReference(resolution, lock.digest, concepts, found))


def _readable(data: ConceptData) -> ConceptData:
    """Return ``data`` without the images that cannot be read, which are printed."""
    left_out = []
    for image in data.images:
        try:
            image.read()
        except (SourceError, DataSetError) as error:
            print(f"left out: {error}")
            left_out.append(image.id)
    if left_out:
        print(f"left out, see above: {len(left_out)} of the {counted(len(data.images), 'image')} of {data.name}")
    return data.without(left_out)


class TorchDetector:
    """The whole model in float32, for prompts that are among ``phrases``, which are encoded at once."""

    @torch.no_grad()
    def __init__(self, lock: CheckpointLock, resolution: int, phrases: Sequence[str]) -> None:
        self._model: Any = load_model(lock, resolution)
        self._processor = make_processor(lock, resolution)
        check_phrases(phrases, lambda text: len(self._processor.tokenizer(text).input_ids), lock.model_dims.text_tokens)
        self._texts: dict[str, tuple[Any, Tensor]] = {}
        for phrase in phrases:
            tokens = self._processor(text=phrase, return_tensors="pt")
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
            self._texts[phrase] = self._model.get_text_features(input_ids=ids, attention_mask=mask), mask

    def __call__(
        self, images: Sequence[Image], prompts: Sequence[Sequence[Prompt]], floor: float
    ) -> Iterator[list[Detections]]:
        """Detect the prompts of each image: those that score more than ``floor``, by prompt."""
        for image, some in zip(images, prompts, strict=True):
            yield self._detect(image, some, floor)

    @torch.no_grad()
    def _detect(self, image: Image, prompts: Sequence[Prompt], floor: float) -> list[Detections]:
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"]
        vision = self._model.get_vision_features(pixels)
        size: Size = (image.shape[0], image.shape[1])
        found = []
        for index, prompt in enumerate(prompts):
            embedded, mask = self._texts[prompt.words]
            result = self._model(vision_embeds=vision, text_embeds=embedded, attention_mask=mask)
            names = ("pred_logits", "presence_logits", "pred_boxes", "pred_masks")
            outputs = {name: result[name].numpy() for name in names}
            outputs["query_index"] = np.arange(outputs["pred_logits"].shape[1])[None]
            found.append(detections_of(outputs, 0, size, prompt=prompt.name, prompt_index=index, threshold=floor))
        return found
