"""Banks: what they hold, what they hold for, and what is refused, each with the reason and the command that helps."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import OutputError, ProjectError, RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running.fake import FakeEngine
from sam3_runtime.families.sam3.banks import Bank, extract, load_bank, parts_for, read_references
from sam3_runtime.families.sam3.pipeline import THRESHOLD, Pipeline
from sam3_runtime.families.sam3.prompts import Prompt
from sam3_runtime.imaging.drawing import color_of
from sam3_runtime.plan.variants import Variant
from tests.fake_variant import write_fake_variant
from tests.projects import CLASSES, WORDS, WriteProject, photo, same, write_photo

# --- making -----------------------------------------------------------------------------------------------------------


def test_a_bank_holds_the_tokens_threshold_and_colour_of_each_class(shop_bank: Bank, tmp_path: Path) -> None:
    assert [(one.name, one.threshold, one.color) for one in shop_bank.classes] == [
        ("person", 0.45, color_of(0)),
        ("mug", 0.6, (0, 128, 255)),
        ("logo", 0.45, color_of(2)),
    ]
    assert [len(tokens.mask) for tokens in shop_bank.tokens] == [32, 32 + 3, 32 + 4]
    assert [tokens.features.shape for tokens in shop_bank.tokens] == [(32, 8), (35, 8), (36, 8)]
    record = shop_bank.record
    assert (record.project, record.resolution, record.backend) == ("shop.yaml", 112, "fake")
    assert set(record.precision) == {"vision-encoder", "text-encoder", "geometry-encoder"}
    mug = record.classes[1].examples
    assert mug is not None
    assert (mug.image, mug.size, mug.labels) == ("shelf.png", (40, 60), (1, 0))
    assert mug.sha256 == sha256_of(tmp_path / "photos/shelf.png")


def test_a_project_without_a_threshold_has_the_pipelines(fake_pipeline: Pipeline, write_project: WriteProject) -> None:
    assert [one.threshold for one in extract(fake_pipeline, write_project(WORDS)).classes] == [THRESHOLD, THRESHOLD]


def test_on_the_reference_image_a_bank_finds_what_the_prompt_itself_finds(
    shop_bank: Bank, fake_pipeline: Pipeline
) -> None:
    shelf = photo(0)
    boxes = ((5.0, 5.0, 20.0, 25.0), (1.0, 2.0, 9.0, 9.0))
    (asked,) = fake_pipeline.detect([shelf], [Prompt("coffee cup", boxes, (1, 0))])[0]
    (known,) = fake_pipeline.detect([shelf], [shop_bank.prompts[1]])[0]
    assert len(known) > 3
    assert (asked.prompt, known.prompt) == ("coffee cup", "mug")
    assert same(asked, known)


def test_boxes_are_read_on_the_reference_image_and_nowhere_else(
    shop_bank: Bank, fake_pipeline: Pipeline, write_project: WriteProject, tmp_path: Path
) -> None:
    other = photo(3, 50, 64)
    (found,) = fake_pipeline.detect([other], [shop_bank.prompts[1]])[0]
    (asked,) = fake_pipeline.detect([other], [Prompt("coffee cup", ((5, 5, 20, 25), (1, 2, 9, 9)), (1, 0))])[0]
    assert not same(found, asked)  # the same boxes on the searched image show something else
    write_photo(tmp_path / "photos/shelf.png", seed=4)
    again = extract(fake_pipeline, write_project(CLASSES))
    changed = [
        one.sha256 != other.sha256 for one, other in zip(shop_bank.record.classes, again.record.classes, strict=True)
    ]
    assert changed == [False, True, True]


def test_negative_boxes_say_something_else_than_positive_ones(
    shop_bank: Bank, fake_pipeline: Pipeline, write_project: WriteProject
) -> None:
    both = CLASSES.replace("[[5, 5, 20, 25]], negative: [[1, 2, 9, 9]]", "[[5, 5, 20, 25], [1, 2, 9, 9]]")
    known, other = shop_bank.record.classes[1], extract(fake_pipeline, write_project(both)).record.classes[1]
    assert other.examples is not None
    assert other.examples.labels == (1, 1)
    assert (other.tokens, other.sha256 == known.sha256) == (known.tokens, False)


def test_relative_boxes_are_shares_of_the_reference_image(
    shop_bank: Bank, fake_pipeline: Pipeline, write_project: WriteProject
) -> None:
    """Of 60 x 40 pixels; the record has pixels."""
    relative = CLASSES.replace("[[5, 5, 20, 25]], negative: [[1, 2, 9, 9]]", "[[0.5, 0.25, 0.75, 1]], relative: true")
    pixels = CLASSES.replace("[[5, 5, 20, 25]], negative: [[1, 2, 9, 9]]", "[[30, 10, 45, 40]]")
    mug, wanted = (extract(fake_pipeline, write_project(text)).record.classes[1] for text in (relative, pixels))
    assert mug == wanted
    assert mug.sha256 != shop_bank.record.classes[1].sha256


def test_a_classs_tokens_do_not_depend_on_the_others(
    shop_bank: Bank, fake_pipeline: Pipeline, write_project: WriteProject
) -> None:
    head, *classes = CLASSES.partition("classes:\n")[2].split("  - ")
    assert head == ""
    for known, section in zip(shop_bank.record.classes, classes, strict=True):
        (alone,) = extract(fake_pipeline, write_project(f"threshold: 0.45\nclasses:\n  - {section}")).record.classes
        assert alone.sha256 == known.sha256


def test_an_image_is_encoded_once_and_texts_together(fake_pipeline: Pipeline, write_project: WriteProject) -> None:
    extract(fake_pipeline, write_project(CLASSES))
    calls = {part: engine.calls for part, engine in fake_pipeline.engines.items() if isinstance(engine, FakeEngine)}
    assert calls == {"vision-encoder": 1, "text-encoder": 1, "geometry-encoder": 2, "decoder": 0}


def test_only_the_parts_that_encode_are_needed(
    fake_variant: Path, write_project: WriteProject, shop_bank: Bank
) -> None:
    words, both = write_project(WORDS), parts_for(write_project(CLASSES))
    assert parts_for(words) == ("text-encoder",)
    for part in ("vision-encoder", "geometry-encoder", "decoder"):
        (fake_variant / f"{part}.engine").rename(fake_variant / f"{part}.away")
    with load(fake_variant, parts=parts_for(words)) as encoding:
        assert len(extract(encoding, write_project(WORDS))) == 2
    for part in ("vision-encoder", "geometry-encoder"):
        (fake_variant / f"{part}.away").rename(fake_variant / f"{part}.engine")
    with load(fake_variant, parts=both) as encoding:
        assert extract(encoding, write_project(CLASSES)).record == shop_bank.record


def test_words_that_are_too_long_are_cut_with_a_warning_that_shows_where(
    fake_pipeline: Pipeline, write_project: WriteProject, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        classes = extract(
            fake_pipeline, write_project(f"classes: [{{words: cat}}, {{name: long, words: {'abcdefghij' * 4}}}]")
        )
    # the small tokenizer's tokens are letters; the two ends take two of the 32
    assert f"has 42 tokens and the model takes 32; it is read as '{'abcdefghij' * 3}'" in caplog.text
    assert caplog.text.count("it is read as") == 1
    assert classes.tokens[1].mask.sum() == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CLASSES.replace("[5, 5, 20, 25]", "[5, 5, 61, 25]"),
            r"shop.yaml:8: classes\[1\]\.examples\.positive\[0\]: the box \[5.0, 5.0, 61.0, 25.0\] is outside "
            r"photos/shelf.png, which is 60 x 40 pixels",
        ),
        (CLASSES.replace("[1, 2, 9, 9]", "[1, 2, 9, 40.5]"), r"negative\[0\]: the box .* is outside"),
        (CLASSES.replace("image: photos/shelf.png, positive: [[3", "image: none.png, positive: [[3"),
         r"shop.yaml:10: classes\[2\]\.examples\.image: .*none.png does not exist"),
    ],
    ids=["wide", "low", "missing"],
)  # fmt: skip
def test_a_wrong_box_or_image_is_told_with_its_line(write_project: WriteProject, text: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        read_references(write_project(text))


def test_a_reference_image_that_cannot_be_read(write_project: WriteProject, tmp_path: Path) -> None:
    project, shelf = write_project(CLASSES), tmp_path / "photos/shelf.png"
    shelf.write_bytes(shelf.read_bytes()[:300])
    with pytest.raises(ProjectError, match=r"shop.yaml:8: .*not a readable image: it is damaged or cut off"):
        read_references(project)
    shelf.write_text("words")
    with pytest.raises(ProjectError, match="it contains text"):
        read_references(project)
    shelf.unlink()
    shelf.mkdir()
    with pytest.raises(ProjectError, match="cannot be read"):
        read_references(project)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_saved_bank_is_read_back_the_same(shop_bank: Bank, tmp_path: Path, fake_variant: Path) -> None:
    path = tmp_path / "banks/shop.npz"
    shop_bank.save(path)
    with load(fake_variant) as fake_pipeline:
        read = load_bank(path, fake_pipeline.config)
    assert (read.record, read.classes, read.file) == (shop_bank.record, shop_bank.classes, str(path))
    for one, other in zip(read.tokens, shop_bank.tokens, strict=True):
        assert np.array_equal(one.features, other.features)
        assert np.array_equal(one.mask, other.mask)
        assert (one.features.dtype, one.mask.dtype) == (np.float32, np.bool_)
    again = tmp_path / "again.npz"
    read.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert [path.name for path in (tmp_path / "banks").iterdir()] == ["shop.npz"]


def test_the_decoder_takes_features_in_another_type(shop_bank: Bank, fake_pipeline: Pipeline) -> None:
    halves = tuple(replace(one, features=one.features.astype(np.float16)) for one in shop_bank.tokens)
    found = fake_pipeline.detect([photo(2)], replace(shop_bank, tokens=halves).prompts)[0]
    assert len(found) == len(shop_bank) > 0
    for half, single in zip(found, fake_pipeline.detect([photo(2)], shop_bank.prompts)[0], strict=True):
        assert len(half) > 3
        assert np.abs(half.boxes - single.boxes).max() < 0.1


def test_what_is_no_bank_is_told(tmp_path: Path) -> None:
    path = tmp_path / "shop.npz"
    with pytest.raises(RecordError, match=r"shop.npz cannot be read: No such file"):
        load_bank(path)
    with pytest.raises(RecordError, match="cannot be read"):
        load_bank(tmp_path)
    for content in (b"", b"words", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="cut off, damaged, or not an archive"):
            load_bank(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(RecordError, match="is not a bank, or one of another version"):
        load_bank(path)
    np.savez(path, bank=np.frombuffer(b'{"project": 3}', np.uint8))
    with pytest.raises(RecordError, match="is not a bank, or one of another version"):
        load_bank(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(RecordError, match="is not a bank"):
        load_bank(path)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pickle-ran",)


def test_nothing_in_a_bank_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("pickle.npz", pickle.dumps(_Runs())), ("array.npz", None)):
        if content is None:
            np.savez(tmp_path / name, bank=np.array([_Runs()], dtype=object))
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordError, match="cannot be read as a bank"):
            load_bank(tmp_path / name)
    assert not (tmp_path / "pickle-ran").exists()


def test_a_cut_bank_is_told_wherever_it_was_cut(shop_bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "shop.npz"
    shop_bank.save(path)
    whole = path.read_bytes()
    assert len(whole) > 60
    for length in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError):
            load_bank(path)


def test_a_changed_byte_is_told_or_changes_nothing(shop_bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "shop.npz"
    shop_bank.save(path)
    whole = path.read_bytes()
    told = 0
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert load_bank(path).record == shop_bank.record  # in the archive's own times and flags
        except RecordError:
            told += 1
    assert told > len(whole) // 37 * 0.8


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    with np.load(path) as file:
        content = dict(file)
    change(content)
    np.savez(path, **content)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"threshold": float("nan")}, r"classes\.0\.threshold"),
        ({"threshold": 2.0}, r"classes\.0\.threshold"),
        ({"color": (0, 256, 0)}, r"classes\.0\.color\.1"),
    ],
)
def test_numbers_that_are_none_are_refused(
    shop_bank: Bank, tmp_path: Path, change: dict[str, object], place: str
) -> None:
    """Of a bank whose digests are right: whoever made it wrote them."""
    first, *others = shop_bank.record.classes
    record = shop_bank.record.model_copy(update={"classes": (first.model_copy(update=change), *others)})
    Bank(record, shop_bank.tokens).save(tmp_path / "shop.npz")
    with pytest.raises(RecordError, match=rf"shop\.npz is not a bank, .*{place}: Input should be"):
        load_bank(tmp_path / "shop.npz")


def test_an_edited_bank_is_noticed(shop_bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "shop.npz"

    def edit(content: dict[str, np.ndarray]) -> None:
        content["bank"] = np.frombuffer(content["bank"].tobytes().replace(b"0.45", b"0.05"), np.uint8)

    def swap(content: dict[str, np.ndarray]) -> None:
        content["features_0"] = content["features_0"] + 1

    def lose(content: dict[str, np.ndarray]) -> None:
        del content["mask_1"]

    for change in (edit, swap):
        shop_bank.save(path)
        rewrite(path, change)
        with pytest.raises(RecordError, match="does not match its own digests"):
            load_bank(path)
    shop_bank.save(path)
    rewrite(path, lose)
    with pytest.raises(RecordError, match="is not a bank"):
        load_bank(path)


def test_a_bank_that_cannot_be_written(shop_bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        shop_bank.save(tmp_path / "file/shop.npz")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"No space left on device\n.*free some space"):
        shop_bank.save(tmp_path / "banks/shop.npz")
    assert list((tmp_path / "banks").iterdir()) == []


# --- what a bank holds for --------------------------------------------------------------------------------------------


def test_another_checkpoint_is_refused_with_the_reason_and_the_command(
    shop_bank: Bank, fake_pipeline: Pipeline, tmp_path: Path
) -> None:
    shop_bank.save(tmp_path / "shop.npz")
    other = fake_pipeline.config.model_copy(
        update={"checkpoint_digest": hashlib.sha256(b"other").hexdigest(), "checkpoint": "facebook/sam3"}
    )
    with pytest.raises(RecordError) as caught:
        load_bank(tmp_path / "shop.npz", other)
    said = str(caught.value)
    assert (
        "was made with another checkpoint, fake (000000000000): b4_q20_r112 is of facebook/sam3 (d9298a10d1b0)" in said
    )
    assert "sam3-runtime extract shop.yaml --engines engines/b4_q20_r112 --output shop.npz" in said


def test_boxes_hold_for_one_resolution_and_words_for_all(
    shop_bank: Bank, fake_pipeline: Pipeline, write_project: WriteProject, tmp_path: Path
) -> None:
    write_fake_variant(tmp_path / "engines/b4_q20_r224", Variant((4, 20, 224)))
    words = extract(fake_pipeline, write_project(WORDS))
    with load(tmp_path / "engines/b4_q20_r224") as other:
        with pytest.raises(
            RecordError, match=r"has example boxes of 'mug', 'logo', encoded at 112 .*runs at 224.*any resolution"
        ):
            shop_bank.check(other.config)
        words.check(other.config)
        found = other.detect([photo(1)], words.prompts)[0]
        assert all(map(same, found, other.detect([photo(1)], ["person", "red car"])[0]))


def test_another_tokenizer_is_refused(shop_bank: Bank, fake_pipeline: Pipeline) -> None:
    with pytest.raises(RecordError, match="encoded with another tokenizer"):
        shop_bank.check(fake_pipeline.config.model_copy(update={"assets": {"tokenizer.json": "1" * 64}}))


def test_the_archive_is_one_that_numpy_reads(shop_bank: Bank, tmp_path: Path) -> None:
    shop_bank.save(tmp_path / "shop.npz")
    assert zipfile.is_zipfile(tmp_path / "shop.npz")
    with np.load(tmp_path / "shop.npz", allow_pickle=False) as file:
        assert set(file) == {"bank", *(f"{kind}_{index}" for kind in ("features", "mask") for index in range(3))}
