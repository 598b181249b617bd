"""The detector: a bank's classes with two engines, thresholds of their own, in chunks where they are many."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

import sam3_runtime
from sam3_runtime.core.errors import EngineError, ProjectError, RecordError
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.families.sam3.banks import Bank, extract, load_bank
from sam3_runtime.families.sam3.detector import DETECTING, Detector, open_detector, saving
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.families.sam3.prompts import Prompt, PromptError
from tests.cli.test_main import run
from tests.projects import CLASSES, WORDS, WriteProject, photo, same


@pytest.fixture
def saved(shop_bank: Bank, tmp_path: Path) -> Path:
    shop_bank.save(tmp_path / "shop.npz")
    return tmp_path / "shop.npz"


def test_a_bank_needs_neither_text_nor_geometry_encoder(
    fake_variant: Path,
    saved: Path,
    fake_pipeline: Pipeline,
    shop_bank: Bank,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = [photo(seed, 30 + seed, 50) for seed in range(6)]
    expected = fake_pipeline.detect(images, shop_bank.prompts, threshold=[one.threshold for one in shop_bank.classes])
    with caplog.at_level(logging.INFO), open_detector(fake_variant, saved) as detector:
        assert set(detector.pipeline.engines) == set(DETECTING)
        assert detector.classes == shop_bank.classes
        assert detector.batch == 4
        found = detector.detect(images)
        streamed = list(detector.stream(images))
        assert detector.saved == "text-encoder and geometry-encoder stay closed, which saves 0.0 MiB of weights"
        assert detector.saved in caplog.text
    for rows in zip(found, streamed, expected, strict=True):
        for one, other, wanted in zip(*rows, strict=True):
            assert one.prompt_index == other.prompt_index == wanted.prompt_index
            assert same(one, wanted)
            assert same(other, wanted)
    assert [[one.prompt for one in row] for row in found] == [["person", "mug", "logo"]] * 6


def test_their_files_may_be_absent(fake_variant: Path, saved: Path) -> None:
    for name in ("text-encoder", "geometry-encoder"):
        (fake_variant / f"{name}.engine").unlink()
    assert saving(fake_variant) is not None
    for name in ("text-encoder.engine.json", "geometry-encoder.engine.json", "tokenizer.json"):
        (fake_variant / name).unlink()
    with open_detector(fake_variant, saved) as detector:
        assert detector.pipeline.status == "passed"
        assert len(detector.detect([photo(1)])[0]) == 3
    assert saving(fake_variant) is None
    (fake_variant / "decoder.engine").unlink()
    with pytest.raises(EngineError, match=r"decoder\.engine is missing"):
        open_detector(fake_variant, saved)


def test_each_class_has_its_own_threshold(fake_pipeline: Pipeline, write_project: WriteProject) -> None:
    text = "classes: [{words: cat, threshold: 0.9}, {words: dog, threshold: 0.1}, {words: cow, threshold: 1}]"
    detector = Detector(fake_pipeline, extract(fake_pipeline, write_project(text)))
    (cat, dog, cow) = detector.detect([photo(1)])[0]
    assert 0 < len(cat) < len(dog)
    assert len(cow) == 0
    assert (cat.scores > 0.9).all()
    assert ((dog.scores > 0.1) & (dog.scores < 0.9)).any()
    best = Detector(fake_pipeline, extract(fake_pipeline, write_project(text)), top=2).detect([photo(1)])[0]
    assert [len(one) for one in best] == [2, 2, 2]


def test_more_classes_than_the_batch_run_in_chunks_and_say_so_once(
    fake_pipeline: Pipeline,
    write_project: WriteProject,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "classes: [" + ", ".join(f"{{words: thing {index}}}" for index in range(9)) + "]"
    classes = extract(fake_pipeline, write_project(text))
    with caplog.at_level(logging.WARNING):
        detector = Detector(fake_pipeline, classes)
        decoder = fake_pipeline.engines["decoder"]
        assert isinstance(decoder, FakeEngine)
        for calls in (3, 6):
            found = detector.detect([photo(1)])[0]
            assert decoder.calls == calls
    assert [one.prompt for one in found] == [f"thing {index}" for index in range(9)]
    assert [one.message for one in caplog.records] == [
        "9 classes are more than the 4 that b4_q20_r112 takes at once: its decoder runs them in 3 chunks"
    ]
    for index, one in enumerate(found):
        assert same(one, fake_pipeline.detect([photo(1)], [f"thing {index}"])[0][0])
    caplog.clear()
    Detector(fake_pipeline, extract(fake_pipeline, write_project(WORDS)))
    assert caplog.records == []


def test_classes_of_a_project_file_are_encoded_first(
    fake_variant: Path,
    write_project: WriteProject,
    saved: Path,
    tmp_path: Path,
) -> None:
    write_project(CLASSES)
    with open_detector(fake_variant, tmp_path / "shop.yaml") as encoded, open_detector(fake_variant, saved) as known:
        assert encoded.classes == known.classes
        rows = zip(encoded.detect([photo(2)])[0], known.detect([photo(2)])[0], strict=True)
        assert all(same(one, other) for one, other in rows)
        engines = list(encoded.pipeline.engines.values())
    assert all(isinstance(engine, FakeEngine) and engine.closed for engine in engines)


def test_what_is_wrong_is_told_before_any_engine_is_opened(
    fake_variant: Path,
    saved: Path,
    tmp_path: Path,
    write_project: WriteProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeEngine, "__init__", lambda *_: pytest.fail("an engine was opened"))
    saved.write_bytes(saved.read_bytes()[:900])
    with pytest.raises(RecordError, match="cut off"):
        open_detector(fake_variant, saved)
    write_project(CLASSES.replace("[5, 5, 20, 25]", "[5, 5, 61, 25]"))
    with pytest.raises(ProjectError, match="is outside"):
        open_detector(fake_variant, tmp_path / "shop.yaml")


def test_a_bank_of_another_checkpoint_is_refused_by_the_detector_too(
    fake_pipeline: Pipeline,
    shop_bank: Bank,
) -> None:
    fake_pipeline.config = fake_pipeline.config.model_copy(update={"checkpoint_digest": "1" * 64})
    with pytest.raises(RecordError, match="another checkpoint"):
        Detector(fake_pipeline, shop_bank)


# --- the pipeline with encoded prompts --------------------------------------------------------------------------------


def test_encoded_prompts_and_others_in_one_call(fake_pipeline: Pipeline) -> None:
    shelf, images = photo(3), [photo(seed, 40 + seed) for seed in range(5)]
    example = Prompt("cup", ((5, 5, 20, 25),))
    (cup, dog) = fake_pipeline.encode([example, "dog"], shelf)
    mixed = fake_pipeline.detect(images, ["cat", cup, example, dog], threshold=[0.3, 0.5, 0.3, 0.3])
    assert [[one.prompt for one in row] for row in mixed] == [["cat", "cup", "cup", "dog"]] * 5
    for image, row in zip(images, mixed, strict=True):
        for one, asked, threshold in zip(row, ("cat", cup, example, "dog"), (0.3, 0.5, 0.3, 0.3), strict=True):
            assert same(one, fake_pipeline.detect([image], [asked], threshold=threshold)[0][0])
        assert not np.array_equal(row[1].boxes, row[2].boxes[: len(row[1])])


def test_boxes_need_the_image_that_they_are_on(fake_pipeline: Pipeline) -> None:
    with pytest.raises(PromptError, match="has boxes, but no image"):
        fake_pipeline.encode([Prompt("cup", ((1, 1, 9, 9),))])
    with pytest.raises(PromptError, match="is outside the image"):
        fake_pipeline.encode([Prompt("cup", ((1, 1, 99, 9),))], photo(1))
    assert [one.name for one in fake_pipeline.encode(["cat", "dog"])] == ["cat", "dog"]


def test_thresholds_are_one_or_one_for_each(fake_pipeline: Pipeline) -> None:
    with pytest.raises(PromptError, match="2 thresholds for 1 prompt\n"):
        fake_pipeline.detect([photo(1)], ["cat"], threshold=[0.1, 0.2])


def test_a_detector_without_a_decoder_is_refused(fake_variant: Path, shop_bank: Bank) -> None:
    with (
        load(fake_variant, parts=("vision-encoder",)) as opened,
        pytest.raises(EngineError, match="the decoder of b4_q20_r112 was not opened"),
    ):
        Detector(opened, shop_bank)


def test_words_without_a_text_encoder_are_refused(fake_variant: Path) -> None:
    with load(fake_variant, parts=DETECTING) as opened:
        for prompt in ("cat", Prompt(boxes=((1, 1, 9, 9),))):
            with pytest.raises(EngineError, match="the text-encoder of b4_q20_r112 was not opened"):
                opened.detect([photo(1)], [prompt])
    with (
        load(fake_variant, parts=(*DETECTING, "text-encoder")) as opened,
        pytest.raises(EngineError, match="the geometry-encoder of b4_q20_r112 was not opened"),
    ):
        opened.detect([photo(1)], [Prompt(boxes=((1, 1, 9, 9),))])


# --- the command line -------------------------------------------------------------------------------------------------


def test_extract_and_info(fake_variant: Path, write_project: WriteProject, tmp_path: Path) -> None:
    write_project(CLASSES)
    said = run("extract", "shop.yaml", "--engines", str(fake_variant), "--output", "shop.npz", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "wrote shop.npz: 3 classes" in said.stdout
    assert "text-encoder and geometry-encoder stay closed, which saves" in said.stdout
    with sam3_runtime.open_detector(fake_variant, tmp_path / "shop.npz") as detector:
        assert detector.classes == load_bank(tmp_path / "shop.npz").classes
    shown = run("info", "shop.npz", cwd=tmp_path).stdout
    for text in ("shop.yaml: 3 classes", "person", "mug", "0.45", "112"):
        assert text in shown
    found = json.loads(run("info", "--json", "shop.npz", cwd=tmp_path).stdout)
    assert [one["name"] for one in found["classes"]] == ["person", "mug", "logo"]


def test_mistakes_on_the_command_line_are_one_message(fake_variant: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("classes: [{name: cup}]")
    (tmp_path / "shop.npz").write_bytes(b"PK")
    for arguments in (
        ("extract", "shop.yaml", "--engines", str(fake_variant)),
        ("extract", "none.yaml", "--engines", str(fake_variant)),
        ("info", "shop.npz"),
        ("info", "none.npz"),
    ):
        said = run(*arguments, cwd=tmp_path)
        assert said.returncode == 1, arguments
        assert said.stderr.startswith("Error: ")
        assert "Hint: " in said.stderr
        assert "Traceback" not in said.stderr
    assert not (tmp_path / "bank.npz").exists()


def test_the_schema_of_project_files_is_printed() -> None:
    assert json.loads(run("schema", "--project").stdout)["title"] == "ProjectFile"
