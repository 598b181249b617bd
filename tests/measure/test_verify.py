"""The gate: what it counts, and what it holds against its limits. The reference is what the fake engines said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sam3_runtime.cli.main import app
from sam3_runtime.core.errors import EngineError, RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.deploy.loading import load
from sam3_runtime.families.sam3 import runtime
from sam3_runtime.families.sam3.gate import Comparison
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.families.sam3.reference import SAMPLED, Box, Case, Reference
from sam3_runtime.families.sam3.settings import GateSection, Limits
from sam3_runtime.measure import verify as module
from sam3_runtime.measure.verify import verify_here
from sam3_runtime.records.records import Check, Counts, Verdict

TEXTS = ("dog", "cup", "visual")
BOX: Box = (4.0, 4.0, 30.0, 20.0)
THRESHOLD = 0.5
KEPT = 10  # the fake decoder's scores above it, of 20 queries
CALLS = 3  # of each case: alone, and in the last row of a full batch with one image and with an image a prompt


def reference_of(pipeline: Pipeline) -> Reference:
    """Everything that ``pipeline`` says of one picture: asked for two words, and for an example with another."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    features = pipeline.device.fetch(pipeline.encode_images(pipeline.preprocess([image])))
    tokens = pipeline.tokenizer(list(TEXTS))
    texts = pipeline.encode_texts(TEXTS)
    index = {level: np.arange(5) for level in SAMPLED}
    asked = [Prompt("dog"), Prompt("cup"), Prompt("visual", (BOX,), (1,))]
    return Reference(
        resolution=pipeline.config.resolution,
        checkpoint_digest=pipeline.config.checkpoint_digest,
        dims={},
        versions={},
        pictures={"picture": image},
        texts=TEXTS,
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        text_features=np.stack([one.features for one in texts]),
        text_mask=np.stack([one.mask for one in texts]),
        features={"picture": {level: features[level].ravel()[:5] for level in SAMPLED}},
        feature_index=index,
        fpn_pos_2=features["fpn_pos_2"].ravel()[:5],
        mask_index=np.arange(50),
        cases=tuple(case_of(pipeline, prompt, image, features) for prompt in asked),
    )


def case_of(pipeline: Pipeline, prompt: Prompt, image: Any, features: Any) -> Case:
    size = (image.shape[0], image.shape[1])
    said = pipeline.decode(features, pipeline.encode_prompts([prompt], [size], features)[0])
    order = np.argsort(said["query_index"][0])  # in the order of queries, as the reference has them
    masks = np.asarray(said["pred_masks"])[0][order]
    shown = pipeline.encode_boxes([prompt], size, features)[0] if prompt.boxes else None
    made = Case(
        picture="picture",
        text=prompt.words,
        boxes=prompt.boxes,
        labels=prompt.labels,
        threshold=THRESHOLD,
        pred_logits=said["pred_logits"][0][order],
        pred_boxes=said["pred_boxes"][0][order],
        presence_logits=said["presence_logits"][0],
        mask_samples=masks.reshape(len(masks), -1)[:, :50],
        kept=np.empty(0, np.int64),
        masks=np.empty(0, np.float16),
        geometry_features=shown.features if shown else None,
        geometry_mask=shown.mask if shown else None,
    )
    ranked = np.argsort(-made.scores, kind="stable")
    kept = ranked[made.scores[ranked] > THRESHOLD]
    return Case(**vars(made) | {"kept": kept, "masks": masks[kept].astype(np.float16)})


Change = Callable[[dict[str, Any], Mapping[str, Any]], None]


def engines_that(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Have the decoder's outputs changed."""
    right = pipeline.engines["decoder"].infer

    def infer(feeds: Mapping[str, Any]) -> dict[str, Any]:
        said = {name: np.array(array) for name, array in right(feeds).items()}
        change(said, feeds)
        return said

    monkeypatch.setattr(pipeline.engines["decoder"], "infer", infer)


def judged(pipeline: Pipeline, reference: Reference) -> tuple[dict[str, Check], Any]:
    found = Comparison(pipeline=pipeline, reference=reference)
    found.run()
    checks = tuple(found.checks(Limits(feature_cosine=0).model_dump()))
    return {check.name: check for check in checks}, found


def missed(checks: Mapping[str, Check]) -> set[str]:
    # The fake position encoding is zero, which has no cosine with anything.
    return {name for name, check in checks.items() if not check.passed} - {"fpn_pos_2 cosine"}


def test_what_the_variant_finds_is_counted_beside_what_is_expected(
    fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = reference_of(fake_pipeline)
    checks, found = judged(fake_pipeline, reference)
    each = Counts(expected=KEPT * CALLS, found=KEPT * CALLS, agreed=KEPT * CALLS)
    assert found.by_prompt == {"dog": each, "cup": each, "1 box": each}
    assert (missed(checks), checks["agreement"].value) == (set(), 1.0)

    def finds_less_of_a_dog(said: dict[str, Any], feeds: Mapping[str, Any]) -> None:
        if np.allclose(feeds["prompt_features"][0, 0, 0], reference.text_features[0, 0, 0]):
            said["pred_logits"][:, :4] = -9  # its four best

    engines_that(fake_pipeline, monkeypatch, finds_less_of_a_dog)
    checks, found = judged(fake_pipeline, reference)
    less = Counts(expected=KEPT * CALLS, found=(KEPT - 4) * CALLS, agreed=(KEPT - 4) * CALLS)
    assert found.by_prompt == {"dog": less, "cup": each, "1 box": each}
    assert (found.total("found"), found.total("expected")) == (KEPT * 9 - 12, KEPT * 9)
    assert checks["agreement"].value == pytest.approx((KEPT * 9 - 12) / (KEPT * 9))


def test_what_is_found_too_much_is_counted_too(fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = reference_of(fake_pipeline)

    def finds_all(said: dict[str, Any], _: Mapping[str, Any]) -> None:
        said["pred_logits"][:] = 4

    engines_that(fake_pipeline, monkeypatch, finds_all)
    checks, found = judged(fake_pipeline, reference)
    assert found.by_prompt["cup"] == Counts(expected=KEPT * CALLS, found=20 * CALLS, agreed=KEPT * CALLS)
    assert checks["agreement"].value == 0.5


@pytest.mark.parametrize(
    ("output", "by", "noticed"),
    [("presence_logits", 0.3, "presence error"), ("presence_logits", float("nan"), "presence error"),
     ("pred_boxes", 0.012, "box error"), ("pred_boxes", float("nan"), "box error")],
)  # fmt: skip
def test_an_error_that_moves_no_detection_is_held_against_its_limit(
    fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, output: str, by: float, noticed: str
) -> None:
    """One of three cases is off: neither agreement nor the mean IoU of boxes says so."""
    reference = reference_of(fake_pipeline)

    def off(said: dict[str, Any], feeds: Mapping[str, Any]) -> None:
        if np.allclose(feeds["prompt_features"][0, 0, 0], reference.text_features[1, 0, 0]):
            said[output][:, :1] += by

    engines_that(fake_pipeline, monkeypatch, off)
    checks, _ = judged(fake_pipeline, reference)
    if not np.isnan(by):
        assert missed(checks) == {noticed}
        assert checks[noticed].value == pytest.approx(by, rel=1e-3)
    assert noticed in missed(checks)


def test_the_box_of_what_is_not_detected_may_be_anywhere(
    fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = reference_of(fake_pipeline)

    def off(said: dict[str, Any], _: Mapping[str, Any]) -> None:
        said["pred_boxes"][:, -1] += 0.1  # of the lowest score

    engines_that(fake_pipeline, monkeypatch, off)
    checks, found = judged(fake_pipeline, reference)
    assert missed(checks) == set()
    assert found.errors["box"] == pytest.approx(0.1, rel=1e-3)
    assert found.errors["box of a detection"] == 0


@pytest.fixture
def judge(fake_variant: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A variant whose reference is what it says itself."""
    with load(fake_variant) as pipeline:
        reference = reference_of(pipeline)
    monkeypatch.setattr(runtime, "read", lambda _path: reference)
    monkeypatch.setattr(module, "sha256_of", lambda _path: "0" * 64)
    return fake_variant


def test_the_verdict_has_both_numbers_and_the_command_shows_them(judge: Path) -> None:
    run = CliRunner().invoke(app, ["verify", str(judge)])
    rows = [line.strip("│").split("│") for line in run.output.splitlines()]
    stripped = [[cell.strip() for cell in row] for row in rows]
    for prompt in ("dog", "cup", "1 box", "all"):
        count = str(KEPT * CALLS * (3 if prompt == "all" else 1))
        assert [prompt, count, count, count] in stripped, run.output
    written = json.loads((judge / "verify.json").read_text())
    assert (written["detections"], written["found"]) == (90, 90)
    assert written["by_prompt"]["dog"] == {"expected": 30, "found": 30, "agreed": 30}
    assert Verdict.read(judge / "verify.json").found == 90


def test_a_gate_from_before_these_limits_gets_their_defaults(judge: Path) -> None:
    """A verdict's own limits count, and those that it does not have are today's."""
    known = Verdict.read(judge / "verify.json")
    older = Limits(agreement=0.1).model_dump(exclude={"presence_error", "box_error"})
    known.model_copy(update={"gate": older}).write(judge / "verify.json")
    gate = verify_here(judge).gate
    assert gate["agreement"] == 0.1
    assert (gate["presence_error"], gate["box_error"]) == (Limits().presence_error, Limits().box_error)


def test_eight_bits_may_err_more() -> None:
    gate = GateSection()
    for eight in (gate.int8, gate.fp8):
        assert eight.presence_error > gate.float.presence_error
        assert eight.box_error > gate.float.box_error


def refuse(*_: Any, **__: Any) -> Any:
    raise EngineError("out of GPU memory")


def test_a_failure_names_the_files_that_were_there(
    fake_variant: Path, fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "reference").touch()
    monkeypatch.setattr(runtime, "read", lambda _: reference_of(fake_pipeline))
    monkeypatch.setattr(module, "load", refuse)
    (fake_variant / "decoder.engine").write_bytes(b"another")
    (fake_variant / "text-encoder.engine").unlink()
    verdict = module.verify(fake_variant, tmp_path / "reference", Limits().model_dump(), "cpu")
    assert (verdict.status, verdict.reason) == ("failed", "out of GPU memory")
    assert verdict.engines.keys() == {"vision-encoder", "geometry-encoder", "decoder"}
    assert verdict.engines["decoder"] == sha256_of(fake_variant / "decoder.engine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resolution": 98}, "another checkpoint or resolution"),
        ({"checkpoint_digest": "1" * 64}, "another checkpoint or resolution"),
        ({"cases": ()}, "has no detection"),
    ],
)
def test_a_reference_that_judges_nothing_is_no_verdict(
    fake_variant: Path, fake_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    """What is wrong there is not the engines': no job may keep it as their verdict."""
    monkeypatch.setattr(runtime, "read", lambda _: replace(reference_of(fake_pipeline), **change))
    with pytest.raises(RecordError, match=said):
        module.verify(fake_variant, fake_variant, Limits().model_dump(), "cpu")
