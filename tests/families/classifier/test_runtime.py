"""Pictures in, classes out; the gate notices what is wrong and nothing else; what is written says what was found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sam3_runtime.core.errors import RecordError, SourceError
from sam3_runtime.deploy import loading
from sam3_runtime.families.classifier.export.accuracy import compute_accuracy
from sam3_runtime.families.classifier.export.reference import logits_of
from sam3_runtime.families.classifier.reference import Reference, accuracy_of, write_reference
from sam3_runtime.families.classifier.runtime import (
    Classifier,
    _agreement,
    evaluate_data_set,
    infer,
    judge,
    judge_accuracy,
    open_model,
    read_accuracy,
    read_reference,
    workload,
)
from sam3_runtime.families.classifier.settings import GateSection
from sam3_runtime.measure.verify import _verdict_of
from sam3_runtime.records.records import CheckpointLock
from tests.families.classifier.conftest import NAMES, RESOLUTION, Open, config_of

Photos = dict[str, np.ndarray]
GATE = GateSection().float.model_dump()


@pytest.fixture
def wanted(reference: Path, lock: CheckpointLock) -> Reference:
    return read_reference(reference, config_of(lock))


def test_logits_are_pytorchs_in_any_number(opened: Open, lock: CheckpointLock, photos: Photos) -> None:
    """Five pictures of several sizes in batches of at most three; our preprocessing beside timm's own."""
    images = [*photos.values(), photos["coffee"][::2, ::3]]
    model = opened()
    np.testing.assert_allclose(model.logits(images), logits_of(lock, RESOLUTION, images), atol=1e-5)
    assert model.engine.calls == [3, 2]
    assert model.logits([]).shape == (0, 5)
    with pytest.raises(SourceError, match="an image is RGB uint8"):
        model.logits([np.zeros((4, 4), np.uint8)])


def test_guesses_are_the_softmax_with_names(opened: Open, photos: Photos) -> None:
    model = opened()
    logits = model.logits(list(photos.values())).astype(np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for guesses, row in zip(model.classify(list(photos.values()), top=3), wanted, strict=True):
        assert guesses.classes == tuple(np.argsort(-row)[:3])
        assert guesses.names == tuple(NAMES[index] for index in guesses.classes)
        np.testing.assert_allclose(guesses.scores, np.sort(row)[:-4:-1], rtol=1e-5)
    assert len(model.classify([photos["coffee"]], top=99)[0].classes) == 5
    large = opened(wrong=lambda logits: logits * 0 + [[0, 1000, 0, 0, 0]])
    assert large.classify([photos["coffee"]], top=1)[0].scores == (1.0,)


def test_stages_are_seen_in_order(opened: Open, photos: Photos) -> None:
    seen = []

    @contextmanager
    def stage(name: str) -> Any:
        seen.append(name)
        yield

    work = workload(opened(), {})
    assert work.round(list(photos.values()), stage) == 4
    assert seen == ["preprocess", "model", "preprocess", "model", "postprocess"]
    work.warm_up(list(photos.values()))
    parts = list(work.parts(list(photos.values())))
    assert [(part.part, part.images, part.prompts) for part in parts] == [("model", 1, 0), ("model", 3, 0)]
    assert [len(part.call()["logits"]) for part in parts] == [1, 3]


def test_labels_must_fit_the_engine(opened: Open, tmp_path: Path) -> None:
    model = opened()
    assert (model.status, model.batch, list(model.records), model.labels.names) == ("passed", 3, ["model"], NAMES)
    (tmp_path / "labels.json").write_text('{"labels": ["a"], "synsets": null}')
    with pytest.raises(RecordError, match="names 1 classes, the model has 5"):
        open_model(model.config, model.engines, model.device, directory=tmp_path, status="", reason="")


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_the_same_model_passes(opened: Open, wanted: Reference) -> None:
    found = judge(opened(), wanted, GATE)
    assert [check.name for check in found.checks] == [
        "logit cosine", "same image in every slot cosine", "top-1 agreement", "top-5 agreement",
    ]  # fmt: skip
    assert all(check.passed for check in found.checks)
    assert found.cases == 4 + 6
    said = "10 of 10 best classes equal those of float32 PyTorch; 4 checks"
    assert _verdict_of(found.passed, found.checks) == ("passed", said)
    assert max(found.errors.values()) < 1e-4


def test_a_batch_of_one_is_judged_without_slots(opened: Open, wanted: Reference) -> None:
    found = judge(opened(batch=1), wanted, GATE)
    assert (found.cases, [check.passed for check in found.checks]) == (4, [True] * 3)


@pytest.mark.parametrize(
    ("wrong", "missed"),
    [
        (lambda logits: logits[::-1], {"logit cosine", "top-1 agreement"}),
        (lambda logits: logits * 0 + logits[:, ::-1], {"logit cosine", "top-1 agreement"}),
        (lambda logits: np.where(np.arange(len(logits))[:, None] == 2, 0, logits),
         {"logit cosine", "same image in every slot cosine"}),
        (lambda logits: logits * np.nan, {"logit cosine", "same image in every slot cosine", "top-1 agreement"}),
        (lambda logits: logits + np.array([[0.2, -0.2, 0, 0, 0]]), {"logit cosine"}),
    ],
    ids=["rows in reverse", "classes in reverse", "an empty slot", "NaN", "an offset"],
)  # fmt: skip
def test_what_is_wrong_is_noticed(
    opened: Open, wanted: Reference, wrong: Callable[[np.ndarray], np.ndarray], missed: set[str]
) -> None:
    found = judge(opened(wrong=wrong), wanted, GATE)
    failed = {check.name for check in found.checks if not check.passed}
    assert failed >= missed


def test_top_5_agreement_is_a_mean_share() -> None:
    """With 7 classes: each swap of the fifth and the sixth costs a fifth."""
    ours = np.array([[7, 6, 5, 4, 3, 2, 1], [7, 6, 5, 4, 3, 2, 1]], np.float32)
    theirs = ours.copy()
    theirs[1, [4, 5]] = theirs[1, [5, 4]]
    assert _agreement(ours, theirs, 5) == pytest.approx(0.9)
    assert _agreement(ours, theirs, 1) == 1.0


def test_a_reference_of_something_else_is_refused(
    lock: CheckpointLock, reference: Path, opened: Open, tmp_path: Path
) -> None:
    config = config_of(lock)
    read = read_reference(reference, config)
    for other in ({"checkpoint_digest": "0" * 64}, {"axes": {**config.axes, "resolution": 128}}):
        with pytest.raises(RecordError, match="of another checkpoint or resolution"):
            read_reference(reference, config.model_copy(update=other))
    write_reference(tmp_path / "r", replace(read, pictures={}, logits=read.logits[:0]))
    with pytest.raises(RecordError, match="contains no image"):
        read_reference(tmp_path / "r", config)
    write_reference(tmp_path / "r", replace(read, logits=read.logits[:, :4]))
    with pytest.raises(RecordError, match="has 4 classes, the engine 5"):
        judge(opened(), read_reference(tmp_path / "r", config), GATE)


# --- labelled pictures ------------------------------------------------------------------------------------------------


@pytest.fixture
def reached(lock: CheckpointLock, labelled: Path, tmp_path: Path) -> Path:
    path = tmp_path / "reached.safetensors"
    compute_accuracy(lock, path, resolution=RESOLUTION, data={"folder": str(labelled)}, limit=9)
    return path


def test_accuracy_is_counted_and_held_against_the_references(
    opened: Open, lock: CheckpointLock, reached: Path, reference: Path
) -> None:
    stored = read_accuracy(reached, config_of(lock))
    assert stored.truth is not None
    assert accuracy_of(stored.logits, stored.truth) == {"top1": 0.75, "top5": 1.0}
    measured, checks = judge_accuracy(opened(), stored, GATE)
    assert measured == {"top1": 0.75, "top5": 1.0, "images": 4}
    assert [(check.name, check.value, check.passed) for check in checks] == [
        ("top-1 loss", 0.0, True), ("top-5 loss", 0.0, True),
    ]  # fmt: skip
    _, checks = judge_accuracy(opened(wrong=lambda logits: -logits), stored, GATE)
    assert (checks[0].value, checks[0].passed) == (0.5, False)
    with pytest.raises(RecordError, match="has no labels of its images"):
        read_accuracy(reference, config_of(lock))


@pytest.fixture
def loads(opened: Open, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """What :func:`sam3_runtime.load` opens, whatever the folder."""
    model = opened()
    monkeypatch.setattr(loading, "load", lambda *_, **__: model)
    return model


@pytest.mark.usefixtures("loads")
def test_a_whole_folder_is_evaluated(labelled: Path, tmp_path: Path) -> None:
    lines = list(evaluate_data_set(tmp_path, {"folder": str(labelled)}, tmp_path / "out/accuracy.json"))
    assert "left out: " in lines[0]
    assert "broken.png" in lines[0]
    assert lines[1] == "4 images: top-1 75.00%, top-5 100.00%"
    found = json.loads((tmp_path / "out/accuracy.json").read_text())
    assert (found["variant"], found["images"], found["left_out"], found["top1"]) == ("b3_r96", 4, 1, 0.75)
    assert str(labelled) not in json.dumps(found)


@pytest.mark.usefixtures("loads")
def test_infer_prints_and_writes_the_best_classes(labelled: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, soft_wrap=True)
    summary = infer(tmp_path, images=[f"{labelled}/*/*.png"], output=tmp_path / "out", console=console, top=2)
    assert (summary.images, summary.unread, summary.exit_code) == (4, 1, 1)
    assert "broken.png is not a readable image" in shown.getvalue()
    lines = [json.loads(line) for line in (tmp_path / "out/images.jsonl").read_text().splitlines()]
    assert {Path(line["image"]).stem for line in lines} == {"astronaut", "coffee", "chelsea", "motorcycle_left"}
    for line in lines:
        assert [set(one) for one in line["classes"]] == [{"class", "name", "score"}] * 2
        assert f"{line['image']}: {line['classes'][0]['name']} {line['classes'][0]['score']:.1%}" in shown.getvalue()
    assert sum(summary.found.values()) == 4
    with pytest.raises(SourceError, match="no images given"):
        infer(tmp_path, images=[], output=tmp_path / "out")
