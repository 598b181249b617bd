"""Compares SAM3's engines with what float32 PyTorch said about real photographs.

Judges engines through the pipeline, with the reference file alone. The verdict is ``measure/verify.py``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.wording import counted
from sam3_runtime.families.sam3.features import Embedding
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.postprocess import scores_of
from sam3_runtime.families.sam3.prompts import BOXES_ONLY_TEXT, Prompt
from sam3_runtime.families.sam3.reference import SAMPLED, Case, Reference
from sam3_runtime.imaging.boxes import box_iou
from sam3_runtime.imaging.postprocess import resize_masks
from sam3_runtime.measure.judging import Findings, Judged
from sam3_runtime.plan.paths import reference_file
from sam3_runtime.records.records import Check, Counts, VariantConfig

Array = NDArray[Any]


def mask_iou(one: Array, other: Array) -> Array:
    """IoU of masks bool [K, H, W], pairwise by row: [K]. Two empty masks agree."""
    shared = (one & other).sum(axis=(1, 2))
    union = (one | other).sum(axis=(1, 2))
    return np.asarray(np.divide(shared, union, out=np.ones(len(one)), where=union > 0))


@dataclass
class _Findings(Findings):
    """Everything measured, before it is held against the limits."""

    box_ious: list[float] = field(default_factory=list)
    mask_ious: list[float] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By prompt, the fields of :class:`Counts`."""

    @property
    def by_prompt(self) -> dict[str, Counts]:
        return {prompt: Counts(**counts) for prompt, counts in self.counts.items()}

    def total(self, kind: str) -> int:
        """Over all prompts; ``kind`` is a field of :class:`Counts`."""
        return sum(counts[kind] for counts in self.counts.values())

    @property
    def agreement(self) -> float:
        """The detections that both keep, as a share of those that either keeps; 0 where neither keeps any."""
        both = self.total("agreed")
        either = self.total("expected") + self.total("found") - both
        return both / either if either else 0.0


def _compare_images(pipeline: Pipeline, reference: Reference, found: _Findings) -> dict[str, dict[str, Array]]:
    """Vision encoder, one picture at a time and in full batches; returns each picture's features (N = 1)."""
    pictures = reference.pictures
    names = list(pictures)

    def encode(chosen: list[str]) -> dict[str, Array]:
        pixels = pipeline.preprocess([pictures[name] for name in chosen])
        return pipeline.device.fetch(pipeline.encode_images(pixels))

    features = {}
    for name in names:
        features[name] = encode([name])
        _compare_features(features[name], 0, reference, name, found)
    if pipeline.batch > 1:
        slots = [names[place % len(names)] for place in range(pipeline.batch)]
        outputs = encode(slots)
        for slot, name in enumerate(slots):
            _compare_features(outputs, slot, reference, name, found)
        alike = encode([names[0]] * pipeline.batch)["fpn_feat_2"]
        for slot in range(pipeline.batch):
            found.compare("same image in every slot", alike[slot], features[names[0]]["fpn_feat_2"][0])
    return features


def _compare_features(
    outputs: Mapping[str, Array], slot: int, reference: Reference, name: str, found: _Findings
) -> None:
    for level in SAMPLED:
        found.compare(
            level, outputs[level][slot].ravel()[reference.feature_index[level]], reference.features[name][level]
        )
    found.compare("fpn_pos_2", outputs["fpn_pos_2"].ravel()[reference.feature_index["fpn_feat_2"]], reference.fpn_pos_2)


def _compare_texts(pipeline: Pipeline, reference: Reference, found: _Findings) -> None:
    tokens = pipeline.tokenizer(list(reference.texts))
    different = (tokens.input_ids != reference.input_ids) | (tokens.attention_mask != reference.attention_mask)
    found.note_error("tokens", float(different.sum()))
    for encoded, features, mask in zip(
        pipeline.encode_texts(reference.texts), reference.text_features, reference.text_mask, strict=True
    ):
        found.compare("text", encoded.features[mask], features[mask])


def _tokens(
    pipeline: Pipeline, case: Case, features: dict[str, Array], size: tuple[int, int], found: _Findings
) -> Embedding:
    prompt = Prompt(case.text, case.boxes, case.labels)
    if case.geometry_features is not None and case.geometry_mask is not None:
        # Alone, and the last of as many as the engine takes.
        for rows in sorted({1, pipeline.engines["geometry-encoder"].limit("P")}):
            boxes = pipeline.encode_boxes([prompt] * rows, size, features)[-1]
            found.compare("geometry", boxes.features[boxes.mask], case.geometry_features[case.geometry_mask])
    return pipeline.encode_prompts([prompt], [size], features)[0][0]


def _compare_case(
    case: Case, outputs: Mapping[str, Array], row: int, size: tuple[int, int], found: _Findings, reference: Reference
) -> None:
    """The decoder's rows by query, then the detections that both sides keep."""
    index = outputs["query_index"][row]
    queries = len(index)
    masks = outputs["pred_masks"][row].reshape(queries, -1)
    found.compare("mask", masks[:, reference.mask_index], case.mask_samples[index])
    found.note_error("logit", float(np.abs(outputs["pred_logits"][row] - case.pred_logits[index]).max()))
    found.note_error("presence", float(np.abs(outputs["presence_logits"][row] - case.presence_logits).max()))
    box_errors = np.abs(outputs["pred_boxes"][row] - case.pred_boxes[index]).max(axis=1)
    found.note_error("box", float(box_errors.max()))
    # A variant of fewer queries keeps that many of the reference's detections, best first, by design.
    expected = case.kept[:queries]
    found.note_error("box of a detection", float(box_errors[np.isin(index, expected)].max(initial=0.0)))
    scores = scores_of(outputs["pred_logits"][row], outputs["presence_logits"][row])
    got = {int(query): place for place, query in enumerate(index) if scores[place] > case.threshold}
    wanted = {int(query): place for place, query in enumerate(expected)}
    both = [query for query in wanted if query in got]
    counts = found.counts.setdefault(_prompt_name(case), Counter())
    counts.update(expected=len(wanted), found=len(got), agreed=len(both))
    if both:
        rows = [got[query] for query in both]
        found.box_ious += box_iou(outputs["pred_boxes"][row, rows], case.pred_boxes[both]).tolist()
        ours = resize_masks(outputs["pred_masks"][row, rows], size)
        theirs = resize_masks(case.masks[[wanted[query] for query in both]].astype(np.float32), size)
        found.mask_ious += mask_iou(ours, theirs).tolist()


def _prompt_name(case: Case) -> str:
    """What the case asked for, in words: ``cup``, ``2 boxes``, ``cup, 1 box``."""
    boxes = counted(len(case.boxes), "box")
    if not case.boxes:
        return case.text
    return boxes if case.text == BOXES_ONLY_TEXT else f"{case.text}, {boxes}"


def _compare_cases(
    pipeline: Pipeline, reference: Reference, features: dict[str, dict[str, Array]], found: _Findings
) -> None:
    for case in reference.cases:
        image = reference.pictures[case.picture]
        size = (image.shape[0], image.shape[1])
        tokens = _tokens(pipeline, case, features[case.picture], size, found)
        limit = pipeline.engines["decoder"].limit("P")
        outputs = pipeline.device.fetch(pipeline.decode(features[case.picture], [tokens]))
        _compare_case(case, outputs, 0, size, found, reference)
        if limit > 1:
            # The same prompt in every row, all on one image (N = 1) and each with its own copy of it (N = P): the last
            # must say the same.
            repeated = {
                key: value if key == "fpn_pos_2" else np.repeat(value, limit, axis=0)
                for key, value in features[case.picture].items()
            }
            for images in (features[case.picture], repeated):
                rows = pipeline.device.fetch(pipeline.decode(images, [tokens] * limit))
                _compare_case(case, rows, limit - 1, size, found, reference)


def _checks(found: _Findings, limits: Mapping[str, float]) -> Iterator[Check]:
    for name, values in found.cosines.items():
        kind = "mask_cosine" if name == "mask cosine" else "feature_cosine"
        # `min` of a list drops a NaN that is not first; this keeps it.
        worst = float(np.min(values))
        yield Check(name=name, value=worst, limit=limits[kind], sense="at least")
    yield Check(name="tokens that differ", value=found.errors["tokens"], limit=0, sense="at most")
    for name, error in (("logit", "logit"), ("presence", "presence"), ("box", "box of a detection")):
        yield Check(name=f"{name} error", value=found.errors[error], limit=limits[f"{name}_error"], sense="at most")
    yield Check(name="agreement", value=found.agreement, limit=limits["agreement"], sense="at least")
    for name, ious in (("box IoU", found.box_ious), ("mask IoU", found.mask_ious)):
        yield Check(
            name=name,
            value=float(np.mean(ious)) if ious else 0.0,
            limit=limits[name.replace(" ", "_").lower()],
            sense="at least",
        )


def check_reference(reference: Reference, config: VariantConfig) -> None:
    """:class:`RecordError` where the reference is of another checkpoint or resolution, or expects nothing."""
    if (reference.checkpoint_digest, reference.resolution) != (config.checkpoint_digest, config.resolution):
        raise RecordError(
            f"the reference is of another checkpoint or resolution ({reference.resolution}) than {config.variant}",
            f"run snakemake --force {reference_file(config.resolution)}",
        )
    if reference.detections == 0:
        raise RecordError("the reference holds no detection, and agreement on nothing means nothing", "set reference:")


def compare(
    pipeline: Pipeline, reference: Reference, limits: Mapping[str, float]
) -> tuple[_Findings, tuple[Check, ...]]:
    """Every comparison with a reference that was checked (:func:`check_reference`)."""
    found = _Findings()
    features = _compare_images(pipeline, reference, found)
    _compare_texts(pipeline, reference, found)
    _compare_cases(pipeline, reference, features, found)
    return found, tuple(_checks(found, limits))


def judged(pipeline: Pipeline, reference: Reference, limits: Mapping[str, float]) -> Judged:
    """The same as a verdict has it."""
    found, checks = compare(pipeline, reference, limits)
    detections = f"{counted(found.total('found'), 'detection')}, {found.total('expected')} expected"
    return Judged(
        checks=checks,
        errors=found.errors,
        cases=len(reference.cases),
        passed=f"{detections}, {found.total('agreed')} in common",
        counts={
            "detections": found.total("expected"),
            "found": found.total("found"),
            "by_prompt": found.by_prompt,
        },
    )
