"""The accuracy gate: compares a variant's engines with what float32 PyTorch said about real photographs, and, where
there is a data set, its AP with the reference's.

Judges engines through the runtime's own pipeline, with the reference file alone: neither PyTorch nor the checkpoint is
needed, so a machine that only runs can verify too. A verdict is a result, not an exception: ``passed``, ``rejected``
(ran, but beyond a limit), ``failed`` (did not run) or ``unverified`` (built for another machine than this one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import CannotRunHere, RecordError, Sam3Error
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.wording import counted
from sam3_runtime.deploy.configure import check_name, read_records
from sam3_runtime.deploy.loading import load
from sam3_runtime.deploy.pack import accuracy_path, reference_path
from sam3_runtime.evaluation.gate import losses, measure_pipeline
from sam3_runtime.evaluation.reference import read_accuracy_reference
from sam3_runtime.families.sam3.features import Tokens
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.prompts import BOXES_ONLY_TEXT, Prompt
from sam3_runtime.families.sam3.reference import SAMPLED, Case, Reference, read_reference
from sam3_runtime.imaging.postprocess import resize_masks, scores_of
from sam3_runtime.plan.paths import reference_file
from sam3_runtime.plan.settings import GateSection
from sam3_runtime.plan.toolchain import device_name
from sam3_runtime.records.records import Check, Counts, VariantConfig, Verdict

Array = NDArray[Any]


def cosine(one: Array, other: Array) -> float:
    """Cosine of two arrays as vectors, in float64; NaN, which passes no check, where one is zero or holds a NaN."""
    a, b = np.asarray(one, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float("nan")


def box_iou(one: Array, other: Array) -> Array:
    """IoU of boxes [K, 4] xyxy, pairwise by row: [K]."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    area = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (one, other)]
    union = area[0] + area[1] - shared
    return np.asarray(np.divide(shared, union, out=np.ones_like(union), where=union > 0))


def mask_iou(one: Array, other: Array) -> Array:
    """IoU of masks bool [K, H, W], pairwise by row: [K]. Two empty masks agree."""
    shared = (one & other).sum(axis=(1, 2))
    union = (one | other).sum(axis=(1, 2))
    return np.asarray(np.divide(shared, union, out=np.ones(len(one)), where=union > 0))


@dataclass
class _Findings:
    """Everything measured, before it is held against the limits."""

    cosines: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
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

    def compare(self, name: str, got: Array, wanted: Array) -> None:
        self.cosines.setdefault(f"{name} cosine", []).append(cosine(got, wanted))
        difference = np.abs(np.asarray(got, np.float64) - np.asarray(wanted, np.float64))
        self.note_error(name, float(difference.max(initial=0.0)))

    def note_error(self, name: str, error: float) -> None:
        # A NaN stays: `max` would drop it on one side.
        known = self.errors.get(name, 0.0)
        self.errors[name] = error if np.isnan(error) else known if np.isnan(known) else max(known, error)


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
) -> Tokens:
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


def _verdict_of(found: _Findings, checks: tuple[Check, ...]) -> tuple[Literal["passed", "rejected"], str]:
    missed = [check for check in checks if not check.passed]
    if not missed:
        detections = f"{counted(found.total('found'), 'detection')}, {found.total('expected')} expected"
        return "passed", f"{detections}, {found.total('agreed')} in common; {counted(len(checks), 'check')}"
    listed = "; ".join(f"{check.name} {check.value:.4g}, {check.sense} {check.limit:g}" for check in missed)
    return "rejected", listed


def verify(
    directory: Path, reference: Path, gate: Mapping[str, float], device: str, accuracy: Path | None = None
) -> Verdict:
    """Judge the variant in ``directory``. Engines that do not load or run give the verdict ``failed``, which is about
    this moment and the files that are there; sound ones that were built for another machine, ``unverified``.

    ``gate`` has the fields of :class:`sam3_runtime.plan.variants.Limits`; ``device`` is what the engines run on, and
    ``accuracy`` what the reference reaches on a data set, where that is part of the gate. Raises :class:`RecordError`
    where there is nothing to judge: no records, no configuration, no reference or one that does not fit.
    """
    config = VariantConfig.read(directory / "config.json")
    check_name(directory, config)
    records = read_records(directory)
    wanted = read_reference(reference)
    check_reference(wanted, config)
    reached = read_accuracy_reference(accuracy) if accuracy else None
    digests = {part: record.sha256 for part, record in records.items()}
    judged: dict[str, Any] = {}
    try:
        with load(directory) as pipeline:
            device = pipeline.device.name
            found, checks = compare(pipeline, wanted, gate)
            if accuracy and reached:
                measured = measure_pipeline(pipeline, reached)
                checks += tuple(losses(measured, reached.accuracy, gate["ap_loss"]))
                judged |= {"accuracy": measured.model_dump(), "accuracy_sha256": sha256_of(accuracy)}
        status, reason = _verdict_of(found, checks)
    except CannotRunHere as error:
        return _verdict(config, digests, reference, gate, device, status="unverified", reason=error.message)
    except Sam3Error as error:
        there = {part: path for part in digests if (path := directory / f"{part}.engine").is_file()}
        tried = {part: sha256_of(path) for part, path in there.items()}
        return _verdict(config, tried, reference, gate, device, status="failed", reason=str(error))
    judged |= {"status": status, "reason": reason, "checks": checks, "errors": found.errors}
    judged |= {"cases": len(wanted.cases), "detections": found.total("expected")}
    judged |= {"found": found.total("found"), "by_prompt": found.by_prompt}
    return _verdict(config, digests, reference, gate, device, **judged)


def _verdict(
    config: VariantConfig,
    engines: Mapping[str, str],
    reference: Path,
    gate: Mapping[str, float],
    device: str,
    **judged: Any,
) -> Verdict:
    return Verdict(
        variant=config.variant,
        engines=dict(engines),
        reference_sha256=sha256_of(reference),
        gate=dict(gate),
        device=device,
        **judged,
    )


def verify_here(directory: Path, reference: Path | None = None, announce: Callable[[str], None] = print) -> Verdict:
    """Judge a variant on this machine, by the limits of its own verdict, and write the new one beside its engines.

    A machine that cannot run them has nothing to say against a verdict that is there: that one stays. ``announce``
    gets a line where the folder cannot be written to: the verdict is then known to the caller alone.
    """
    config = VariantConfig.read(directory / "config.json")
    known = None
    sections = GateSection()
    gate = (sections.float if config.quantize is None else getattr(sections, config.quantize)).model_dump()
    with suppress(RecordError):
        known = Verdict.read(directory / "verify.json")
        gate |= known.gate
    records = read_records(directory)
    verdict = verify(
        directory,
        reference or reference_path(directory, config.resolution),
        gate,
        device_name(records["decoder"].toolchain),
        accuracy_path(directory, config.resolution),
    )
    if known is None or verdict.status != "unverified":
        try:
            verdict.write(directory / "verify.json")
        except OSError as error:
            announce(f"the verdict is not kept: {directory} cannot be written to ({error.strerror})")
    return verdict
