"""What files hold, wherever they are: read once, noticed when it changes, remembered where it is not to be found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sam3_runtime.plan import contents as module
from sam3_runtime.plan.contents import Contents


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read."""
    names: list[str] = []
    right = module.sha256_of

    def noted(path: Path) -> str:
        names.append(path.name)
        return right(path)

    monkeypatch.setattr(module, "sha256_of", noted)
    return names


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work/photos"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / "clip.mp4").write_bytes(b"clip")
    monkeypatch.chdir(tmp_path / "work")
    return folder


def add(photos: Path) -> None:
    (photos / "c.png").write_bytes(b"c")


def replace_in_place(photos: Path) -> None:
    stat = (photos / "a.png").stat()
    (photos / "a.png").write_bytes(b"A.PNG")
    os.utime(photos / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def rename(photos: Path) -> None:
    (photos / "a.png").rename(photos / "z.png")


def remove(photos: Path) -> None:
    (photos / "a.png").unlink()


@pytest.mark.parametrize("change", [add, replace_in_place, rename, remove])
def test_a_change_of_images_is_noticed(photos: Path, change: Callable[[Path], None]) -> None:
    before = Contents().of_sources(["photos"])
    assert Contents().of_sources(["photos"]) == before
    change(photos)
    assert Contents().of_sources(["photos"]) != before


def test_a_video_is_its_bytes(photos: Path) -> None:
    before = Contents().of_sources(["photos/clip.mp4"])
    (photos / "clip.mp4").write_bytes(b"another clip")
    assert Contents().of_sources(["photos/clip.mp4"]) != before


def test_where_they_are_and_what_else_is_there_changes_nothing(photos: Path, tmp_path: Path) -> None:
    before = Contents().of_sources(["photos"])
    (photos / "notes.txt").touch()
    shutil.copytree(photos, tmp_path / "elsewhere")  # new time stamps
    assert Contents().of_sources([tmp_path / "elsewhere"]) == before


def test_what_was_read_is_read_again_where_it_was_touched(photos: Path, hashed: list[str]) -> None:
    Contents().of_sources(["photos"])
    assert sorted(hashed) == ["a.png", "b.jpg"]
    Contents().of_sources(["photos"])
    os.utime(photos / "a.png")
    Contents().of_sources(["photos"])
    assert sorted(hashed) == ["a.png", "a.png", "b.jpg"]


def test_what_is_not_to_be_found_is_what_it_was(photos: Path) -> None:
    before = Contents().of_sources(["photos", "photos/clip.mp4"])
    photos.rename(photos.with_name("carried off"))
    assert Contents().of_sources(["photos", "photos/clip.mp4"]) == before
    assert Contents().of_sources(["nowhere"]) != before


def test_a_memory_that_is_damaged_or_cannot_be_written_is_done_without(photos: Path) -> None:
    before = Contents().of_sources(["photos"])
    memory = photos.parent / module.MEMORY
    for damaged in ("", "[]", "{}", '{"files": 1, "named": 2}'):
        memory.write_text(damaged)
        assert Contents().of_sources(["photos"]) == before
    memory.unlink()
    memory.parent.rmdir()
    memory.parent.touch()
    assert Contents().of_sources(["photos"]) == before


def test_a_data_set_is_the_images_that_it_names(photos: Path) -> None:
    annotations = photos.parent / "annotations.json"
    annotations.write_text(json.dumps({"images": [{"file_name": "a.png"}, {"file_name": "gone.png"}]}))
    before = Contents().of_annotated(annotations, photos)
    (photos / "b.jpg").write_bytes(b"not named")
    assert Contents().of_annotated(annotations, photos) == before
    (photos / "gone.png").touch()
    assert Contents().of_annotated(annotations, photos) != before
    annotations.write_text("no JSON")
    Contents().of_annotated(annotations, photos)


def test_a_checkpoint_is_its_files_whatever_its_folder(project: Path, tmp_path: Path) -> None:
    digest = Contents(tmp_path).of_checkpoint(project / "demo/checkpoint")
    copy = shutil.copytree(project / "demo/checkpoint", tmp_path / "copy")
    assert digest is not None
    assert Contents(tmp_path).of_checkpoint(copy) == digest
    (copy / "config.json").write_text("{}")
    assert Contents(tmp_path).of_checkpoint(copy) not in (None, digest)
    (copy / "model.safetensors").unlink()
    assert Contents(tmp_path).of_checkpoint(copy) is None
