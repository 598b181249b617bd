"""Writes the outputs of transformers' ``Sam3Model`` and its processor, in float32, for the verification images.

The cases of an image are each prompt, an example box with a counter-example and no words, and words with an example
box. The file contains what verification compares (100 MB at most): all scores and boxes, whole masks of detections, and
seeded samples of the rest. ``sam3_runtime/families/sam3/reference.py`` reads it and documents its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam3_runtime.core.errors import CheckpointError, ExportError
from sam3_runtime.core.tensor_files import write_tensors
from sam3_runtime.families.sam3.export.checkpoint import tokenizer_folder
from sam3_runtime.families.sam3.export.tokenizer import small_tokenizer
from sam3_runtime.families.sam3.export.weights import load_model
from sam3_runtime.families.sam3.reference import FORMAT, METADATA, SAMPLED, Box
from sam3_runtime.records.records import CheckpointLock

SCORE_THRESHOLD = 0.3  # transformers' own
FEATURE_SAMPLES = 32768
MASK_SAMPLES = 256
BEST = 20  # masks that are held until the threshold is known
GAP_RANKS = range(5, 21)  # a threshold between two scores lies below one of these ranks
LARGEST_FILE = 100_000_000  # bytes
BOXES_ONLY_TEXT = "visual"  # transformers' text for a prompt without words
SEED = 0

Arrays = dict[str, NDArray[Any]]


@dataclass
class _Answer:
    """The model's outputs for one case, before the threshold is known."""

    picture: str
    text: str
    boxes: tuple[Box, ...]
    labels: tuple[int, ...]
    tensors: Arrays
    scores: NDArray[np.float32]
    masks: dict[int, NDArray[np.float16]]  # of the queries that may be detections
    threshold: float = 0.0


def compute_reference(
    lock: CheckpointLock,
    output: Path,
    *,
    resolution: int,
    images: Mapping[str, NDArray[np.uint8]],
    prompts: Sequence[str],
    threshold: float | None = None,
) -> None:
    """Run the model over ``images`` (name → RGB uint8 [H, W, 3]) and ``prompts``; write ``output``.

    ``threshold`` is the score from which a detection counts: 0.3 where any score reaches it, otherwise (random
    weights) one for each case, in the largest gap between its 5th and its 21st score. Raises
    :class:`CheckpointError` where nothing is detected, :class:`ExportError` without images or prompts, and where the
    file grows too large.
    """
    if not images or not prompts:
        raise ExportError("a reference needs images and prompts", "set reference.source and reference.prompts")
    model = _Model(lock, resolution, threshold or SCORE_THRESHOLD)
    texts = list(dict.fromkeys([*prompts, BOXES_ONLY_TEXT]))
    tensors = model.encode_texts(texts)
    answers: list[_Answer] = []
    for index, (name, image) in enumerate(images.items()):
        tensors[f"pictures.{index}.image"] = np.ascontiguousarray(image)
        answers += model.run_cases(name, image, prompts)
        tensors |= {f"pictures.{index}.{level}": values for level, values in model.sampled.items()}
    tensors |= {"fpn_pos_2": model.position} | {f"index.{level}": sample for level, sample in model.index.items()}
    _choose_thresholds(answers, threshold, lock.checkpoint)
    for index, answer in enumerate(answers):
        tensors |= {f"cases.{index}.{name}": value for name, value in _with_detections(answer).items()}
    description = {
        "format": FORMAT,
        "resolution": resolution,
        "checkpoint_digest": lock.digest,
        "dims": lock.dims,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "pictures": list(images),
        "texts": texts,
        "cases": [
            {key: getattr(answer, key) for key in ("picture", "text", "boxes", "labels", "threshold")}
            for answer in answers
        ],
    }
    _save(tensors, description, output)


class _Model:
    """The model, its processor, and the encoded image.

    ``index`` and ``sampled`` are the positions and values of each tensor that are written.
    """

    def __init__(self, lock: CheckpointLock, resolution: int, least: float) -> None:
        self.model: Any = load_model(lock, resolution)
        self.processor = make_processor(lock, resolution)
        self.least = least
        self.index: Arrays = {}
        self.sampled: Arrays = {}
        self.position: NDArray[np.float32] = np.empty(0, np.float32)
        self._texts: dict[str, tuple[Any, Tensor]] = {}
        self._vision: Any = None
        self._random = np.random.default_rng(SEED)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Arrays:
        """Return the tokens [T, L] and the text features [T, L, C] of T texts."""
        found: dict[str, list[Tensor]] = {"input_ids": [], "attention_mask": [], "text_features": [], "text_mask": []}
        for text in texts:
            tokens = self.processor(text=text, return_tensors="pt")
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
            embedded = self.model.get_text_features(input_ids=ids, attention_mask=mask)
            self._texts[text] = embedded, mask
            for key, value in zip(found, (ids, mask, embedded.pooler_output, mask.bool()), strict=True):
                found[key].append(value)
        return {f"texts.{key}": torch.cat(values).numpy() for key, values in found.items()}

    def run_cases(self, name: str, pixels: NDArray[np.uint8], prompts: Sequence[str]) -> Iterator[_Answer]:
        """Run every case of one image; its sampled features are in ``sampled`` afterwards."""
        image = Image.fromarray(pixels)
        self._encode(image)
        answers = [self._run(name, image, text) for text in prompts]
        yield from answers
        best = max(answers, key=lambda answer: float(answer.scores.max()))
        positive = _box_in_pixels(best.tensors["pred_boxes"][int(best.scores.argmax())], image.size)
        negative = _far_corner(positive, image.size)
        yield self._run(name, image, BOXES_ONLY_TEXT, (positive, negative), (1, 0))
        yield self._run(name, image, best.text, (positive,), (1,))

    @torch.no_grad()
    def _encode(self, image: Image.Image) -> None:
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        self._vision = self.model.get_vision_features(pixels)
        for level, values in zip(SAMPLED, self._vision.fpn_hidden_states, strict=False):
            flat = values[0].reshape(-1).numpy()
            self.sampled[level] = flat[self._sample(level, flat.size, FEATURE_SAMPLES)]
        position = self._vision.fpn_position_encoding[2][0].reshape(-1).numpy()
        self.position = position[self.index["fpn_feat_2"]]

    def _sample(self, name: str, size: int, count: int) -> NDArray[np.int64]:
        """Return the positions of ``count`` of ``size`` values of the tensor ``name``, the same for all images."""
        if name not in self.index:
            drawn = self._random.choice(size, min(size, count), replace=False)
            self.index[name] = np.sort(drawn).astype(np.int64)
        return self.index[name]

    @torch.no_grad()
    def _run(
        self, name: str, image: Image.Image, text: str, boxes: tuple[Box, ...] = (), labels: tuple[int, ...] = ()
    ) -> _Answer:
        embedded, mask = self._texts[text]
        tensors: Arrays = {}
        prompt: dict[str, Tensor] = {}
        if boxes:
            rows = [[list(box) for box in boxes]]
            read = self.processor(
                images=image, input_boxes=rows, input_boxes_labels=[list(labels)], return_tensors="pt"
            )
            prompt = {key: read[key] for key in ("input_boxes", "input_boxes_labels")}
            prompt["input_boxes"] = prompt["input_boxes"].float()
            tensors |= self._geometry(**prompt) | {key: value[0].numpy() for key, value in prompt.items()}
        found = self.model(vision_embeds=self._vision, text_embeds=embedded, attention_mask=mask, **prompt)
        scores = (found.pred_logits.sigmoid() * found.presence_logits.sigmoid())[0].numpy()
        masks = found.pred_masks[0].numpy()
        flat = masks.reshape(len(masks), -1)
        tensors |= {
            "pred_logits": found.pred_logits[0].numpy(),
            "pred_boxes": found.pred_boxes[0].numpy(),
            "presence_logits": found.presence_logits[0].numpy(),
            "mask_samples": flat[:, self._sample("masks", flat.shape[1], MASK_SAMPLES)],
        }
        ranked = np.argsort(-scores, kind="stable")
        keep = [int(query) for rank, query in enumerate(ranked) if rank < BEST or scores[query] > self.least]
        return _Answer(name, text, boxes, labels, tensors, scores, {q: masks[q].astype(np.float16) for q in keep})

    def _geometry(self, input_boxes: Tensor, input_boxes_labels: Tensor) -> Arrays:
        encoded = self.model.geometry_encoder(
            box_embeddings=input_boxes,
            box_mask=torch.ones_like(input_boxes_labels, dtype=torch.bool),
            box_labels=input_boxes_labels,
            img_feats=self._vision.fpn_hidden_states[:3],
            img_pos_embeds=self._vision.fpn_position_encoding[:3],
        )
        return {
            "geometry_features": encoded.last_hidden_state[0].numpy(),
            "geometry_mask": encoded.attention_mask[0].numpy(),
        }


def make_processor(lock: CheckpointLock, resolution: int) -> Any:
    """Return transformers' processor of the checkpoint, for images of any size."""
    folder = tokenizer_folder(lock)
    tokenizer = small_tokenizer() if folder is None else transformers.AutoTokenizer.from_pretrained(str(folder))
    size = {"height": resolution, "width": resolution}
    return transformers.Sam3Processor(transformers.Sam3ImageProcessor(size=size), tokenizer)


def _box_in_pixels(box: NDArray[np.float32], size: tuple[int, int]) -> Box:
    """Convert xyxy 0..1 to whole pixels inside an image of ``size`` (width, height), at least 8 per side."""
    sides = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        start = min(max(round(float(low) * length), 0), length - 8)
        sides.append((start, min(max(round(float(high) * length), start + 8), length)))
    (x0, x1), (y0, y1) = sides
    return float(x0), float(y0), float(x1), float(y1)


def _far_corner(box: Box, size: tuple[int, int]) -> Box:
    """Return a box of an eighth of each side in the corner farthest from ``box``, as a counter-example."""
    width, height = size[0] // 8, size[1] // 8
    x = 0 if box[0] + box[2] > size[0] else size[0] - width
    y = 0 if box[1] + box[3] > size[1] else size[1] - height
    return float(x), float(y), float(x + width), float(y + height)


def _choose_thresholds(answers: Sequence[_Answer], threshold: float | None, checkpoint: str) -> None:
    best = max(float(answer.scores.max()) for answer in answers)
    if threshold is not None and best <= threshold:
        raise CheckpointError(
            f"the reference of {checkpoint} detects nothing: its best score is {best:.4f}, the threshold {threshold}",
            "lower reference.threshold or leave it out, or choose images that show the prompts",
        )
    for answer in answers:
        if threshold is not None:
            answer.threshold = threshold
        else:
            answer.threshold = SCORE_THRESHOLD if best > SCORE_THRESHOLD else widest_gap(answer.scores)


def widest_gap(scores: NDArray[np.float32]) -> float:
    """Return the middle of the largest gap between adjacent ranked scores, below ranks 5 to 20."""
    ranked = np.sort(scores.astype(np.float64))[::-1]
    rank = max((rank for rank in GAP_RANKS if rank < len(ranked)), key=lambda rank: ranked[rank - 1] - ranked[rank])
    return float((ranked[rank - 1] + ranked[rank]) / 2)


def _with_detections(answer: _Answer) -> Arrays:
    kept = [query for query in answer.masks if answer.scores[query] > answer.threshold]
    side = next(iter(answer.masks.values())).shape
    masks = np.stack([answer.masks[query] for query in kept]) if kept else np.empty((0, *side), np.float16)
    return answer.tensors | {"kept": np.asarray(kept, np.int64), "masks": masks}


def _save(tensors: Arrays, description: Mapping[str, Any], output: Path) -> None:
    size = sum(value.nbytes for value in tensors.values())
    if size > LARGEST_FILE:
        message = f"the reference would take {size / 1e6:.0f} MB, more than {LARGEST_FILE / 1e6:.0f}"
        raise ExportError(message, "list fewer or smaller images, or fewer prompts, under reference")
    write_tensors(output, METADATA, description, dict(sorted(tensors.items())))
