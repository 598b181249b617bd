"""What a class may be called, and which pictures of a labelled folder are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import RecordError, SourceError
from sam3_runtime.families.classifier.labels import Labels, read_labelled, read_labels
from tests.families.classifier.conftest import NAMES

LABELS = Labels(NAMES, ["n00000000", "n00000001", "n00000002", "n00000003", "n00000004"])


@pytest.mark.parametrize(
    ("text", "index"), [("cat", 0), ("Cup", 1), ("crane, bird", 2), ("machine", 3), ("4", 4), ("n00000002", 2)]
)
def test_a_class_has_a_name_synonyms_an_index_and_a_synset(text: str, index: int) -> None:
    assert LABELS.index_of(text) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", "names several classes: 2, 3"),
        ("rockett", "none of the 5 classes\n.*'rocket'"),
        ("5", "none of the 5 classes\n.*an index from 0 to 4"),
        ("-1", "none of the 5 classes"),
    ],
)
def test_a_name_of_no_class_or_of_several_is_said(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        LABELS.index_of(text)


def test_a_whole_name_is_not_another_ones_synonym() -> None:
    assert Labels(["tabby, cat", "cat"]).index_of("cat") == 1


def test_labels_are_read_as_written_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(LABELS.to_json())
    assert read_labels(path, 5) == LABELS
    with pytest.raises(RecordError, match="names 5 classes, the model has 6"):
        read_labels(path, 6)
    for damaged in (b"[]", b'{"labels": [1, 2], "synsets": null}', b'{"labels": ["a", "b"]}', b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="is damaged"):
            read_labels(path, 2)
    with pytest.raises(RecordError, match="is missing"):
        read_labels(tmp_path / "none.json", 5)


def test_a_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "cat/c.png", "4/a.png", "4/notes.txt", "cup/z.jpg", ".hidden/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(one.name, one.truth) for one in read_labelled(tmp_path, LABELS, 4)]
    assert found == [("4/a.png", 4), ("cat/a.png", 0), ("cup/z.jpg", 1), ("cat/b.png", 0)]
    assert len(read_labelled(tmp_path, LABELS)) == 5
    (tmp_path / "dog").mkdir()
    with pytest.raises(SourceError, match="'dog' names none"):
        read_labelled(tmp_path, LABELS)


def test_a_folder_without_pictures_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="contains no folder of images"):
        read_labelled(tmp_path, LABELS)
    with pytest.raises(SourceError, match="is not a folder"):
        read_labelled(tmp_path / "none", LABELS)
