"""Compare SAM3's engines with the outputs of float32 PyTorch for real photographs.

Runs the engines through the pipeline, and needs the reference file alone. ``measure/verify.py`` makes the verdict.
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
    """Return the IoU of masks bool [K, H, W] with those of the same row: [K]. Two empty masks agree."""
    shared, union = (one & other).sum(axis=(1, 2)), (one | other).sum(axis=(1, 2))
    return np.asarray(np.divide(shared, union, out=np.ones(len(one)), where=union > 0))


@dataclass(kw_only=True)
class Comparison(Findings):
    """A pipeline beside a checked reference (:func:`check_reference`): everything that is measured, without limits."""

    pipeline: Pipeline
    reference: Reference
    box_ious: list[float] = field(default_factory=list)
    mask_ious: list[float] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By prompt, the fields of :class:`Counts`."""

    def run(self) -> None:
        """Make every comparison."""
        features = self._compare_images()
        self._compare_texts()
        for case in self.reference.cases:
            self._compare_calls(case, features[case.picture])

    def total(self, kind: str) -> int:
        """Return the sum over all prompts; ``kind`` is a field of :class:`Counts`."""
        return sum(counts[kind] for counts in self.counts.values())

    @property
    def by_prompt(self) -> dict[str, Counts]:
        """The counts as a verdict records them."""
        return {prompt: Counts(**counts) for prompt, counts in self.counts.items()}

    @property
    def agreement(self) -> float:
        """The detections that both sides keep, as a share of those that either keeps; 0 where neither keeps any."""
        both = self.total("agreed")
        either = self.total("expected") + self.total("found") - both
        return both / either if either else 0.0

    def _encode(self, names: list[str]) -> dict[str, Array]:
        pixels = self.pipeline.preprocess([self.reference.pictures[name] for name in names])
        return self.pipeline.device.fetch(self.pipeline.encode_images(pixels))

    def _compare_images(self) -> dict[str, dict[str, Array]]:
        """Compare the vision encoder's outputs, one image at a time and in full batches; return those of each image."""
        names, batch = list(self.reference.pictures), self.pipeline.batch
        features = {name: self._encode([name]) for name in names}
        for name in names:
            self._compare_features(features[name], 0, name)
        if batch > 1:
            slots = [names[slot % len(names)] for slot in range(batch)]
            outputs = self._encode(slots)
            for slot, name in enumerate(slots):
                self._compare_features(outputs, slot, name)
            alike = self._encode([names[0]] * batch)["fpn_feat_2"]
            for slot in range(batch):
                self.compare("same image in every slot", alike[slot], features[names[0]]["fpn_feat_2"][0])
        return features

    def _compare_features(self, outputs: Mapping[str, Array], slot: int, name: str) -> None:
        index, wanted = self.reference.feature_index, self.reference.features[name]
        for level in SAMPLED:
            self.compare(level, outputs[level][slot].ravel()[index[level]], wanted[level])
        self.compare("fpn_pos_2", outputs["fpn_pos_2"].ravel()[index["fpn_feat_2"]], self.reference.fpn_pos_2)

    def _compare_texts(self) -> None:
        reference = self.reference
        tokens = self.pipeline.tokenizer(list(reference.texts))
        different = (tokens.input_ids != reference.input_ids) | (tokens.attention_mask != reference.attention_mask)
        self.note_error("tokens", float(different.sum()))
        encoded = self.pipeline.encode_texts(reference.texts)
        for text, features, mask in zip(encoded, reference.text_features, reference.text_mask, strict=True):
            self.compare("text", text.features[mask], features[mask])

    def _compare_calls(self, case: Case, features: dict[str, Array]) -> None:
        """Compare a prompt alone and, where the engine takes more, the last row of full batches.

        In these, the same prompt is in every row: all with one image (N = 1), and each with its own copy (N = P).
        """
        tokens = self._tokens(case, features)
        limit = self.pipeline.engines["decoder"].limit("P")
        self._compare_rows(case, features, [tokens])
        if limit > 1:
            self._compare_rows(case, features, [tokens] * limit)
            repeated = {
                key: value if key == "fpn_pos_2" else np.repeat(value, limit, axis=0) for key, value in features.items()
            }
            self._compare_rows(case, repeated, [tokens] * limit)

    def _size_of(self, case: Case) -> tuple[int, int]:
        height, width, _ = self.reference.pictures[case.picture].shape
        return height, width

    def _tokens(self, case: Case, features: dict[str, Array]) -> Embedding:
        size, prompt = self._size_of(case), Prompt(case.text, case.boxes, case.labels)
        if case.geometry_features is not None and case.geometry_mask is not None:
            # Alone, and the last of as many as the engine takes.
            for rows in sorted({1, self.pipeline.engines["geometry-encoder"].limit("P")}):
                boxes = self.pipeline.encode_boxes([prompt] * rows, size, features)[-1]
                self.compare("geometry", boxes.features[boxes.mask], case.geometry_features[case.geometry_mask])
        return self.pipeline.encode_prompts([prompt], [size], features)[0][0]

    def _compare_rows(self, case: Case, features: dict[str, Array], tokens: list[Embedding]) -> None:
        """Compare the decoder's last row by query, and then the detections that both sides keep."""
        outputs = self.pipeline.device.fetch(self.pipeline.decode(features, tokens))
        output = {name: values[-1] for name, values in outputs.items()}
        index = output["query_index"]
        masks = output["pred_masks"].reshape(len(index), -1)
        self.compare("mask", masks[:, self.reference.mask_index], case.mask_samples[index])
        self.note_error("logit", float(np.abs(output["pred_logits"] - case.pred_logits[index]).max()))
        self.note_error("presence", float(np.abs(output["presence_logits"] - case.presence_logits).max()))
        box_errors = np.abs(output["pred_boxes"] - case.pred_boxes[index]).max(axis=1)
        self.note_error("box", float(box_errors.max()))
        # A variant with fewer queries keeps only that many of the reference's detections, best first, by design.
        wanted = {int(query): row for row, query in enumerate(case.kept[: len(index)])}
        self.note_error("box of a detection", float(box_errors[np.isin(index, list(wanted))].max(initial=0.0)))
        scores = scores_of(output["pred_logits"], output["presence_logits"])
        got = {int(query): row for row, query in enumerate(index) if scores[row] > case.threshold}
        both = [query for query in wanted if query in got]
        counts = self.counts.setdefault(_prompt_name(case), Counter())
        counts.update(expected=len(wanted), found=len(got), agreed=len(both))
        if both:
            rows, size = [got[query] for query in both], self._size_of(case)
            self.box_ious += box_iou(output["pred_boxes"][rows], case.pred_boxes[both]).tolist()
            theirs = case.masks[[wanted[query] for query in both]].astype(np.float32)
            ious = mask_iou(resize_masks(output["pred_masks"][rows], size), resize_masks(theirs, size))
            self.mask_ious += ious.tolist()

    def checks(self, limits: Mapping[str, float]) -> Iterator[Check]:
        """Yield each check of what was measured against the ``limits`` of the gate."""
        for name, values in self.cosines.items():
            kind = "mask_cosine" if name == "mask cosine" else "feature_cosine"
            # `min` of a list drops a NaN that is not first; this keeps it.
            yield Check(name=name, value=float(np.min(values)), limit=limits[kind], sense="at least")
        yield Check(name="tokens that differ", value=self.errors["tokens"], limit=0, sense="at most")
        for name, error in (("logit", "logit"), ("presence", "presence"), ("box", "box of a detection")):
            limit = limits[f"{name}_error"]
            yield Check(name=f"{name} error", value=self.errors[error], limit=limit, sense="at most")
        box_iou, mask_iou = (float(np.mean(ious)) if ious else 0.0 for ious in (self.box_ious, self.mask_ious))
        for name, value in {"agreement": self.agreement, "box IoU": box_iou, "mask IoU": mask_iou}.items():
            yield Check(name=name, value=value, limit=limits[name.replace(" ", "_").lower()], sense="at least")


def _prompt_name(case: Case) -> str:
    """Return the prompt of a case in words: ``cup``, ``2 boxes``, ``cup, 1 box``."""
    boxes = counted(len(case.boxes), "box")
    if not case.boxes:
        return case.text
    return boxes if case.text == BOXES_ONLY_TEXT else f"{case.text}, {boxes}"


def check_reference(reference: Reference, config: VariantConfig) -> None:
    """Raise :class:`RecordError` where the reference is of another checkpoint or resolution, or has no detection."""
    if (reference.checkpoint_digest, reference.resolution) != (config.checkpoint_digest, config.resolution):
        raise RecordError(
            f"the reference is of another checkpoint or resolution ({reference.resolution}) than {config.variant}",
            f"run snakemake --force {reference_file(config.resolution)}",
        )
    if reference.detections == 0:
        raise RecordError("the reference has no detection, so that there is nothing to agree on", "set reference:")


def judged(pipeline: Pipeline, reference: Reference, limits: Mapping[str, float]) -> Judged:
    """Compare the engines with a checked reference, and return the checks and counts of the verdict."""
    found = Comparison(pipeline=pipeline, reference=reference)
    found.run()
    detections = f"{counted(found.total('found'), 'detection')}, {found.total('expected')} expected"
    return Judged(
        checks=tuple(found.checks(limits)),
        errors=found.errors,
        cases=len(reference.cases),
        passed=f"{detections}, {found.total('agreed')} in common",
        counts={
            "detections": found.total("expected"),
            "found": found.total("found"),
            "by_prompt": found.by_prompt,
        },
    )
