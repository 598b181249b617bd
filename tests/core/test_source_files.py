"""Which files are meant by paths, folders, globs and package specs, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.core.source_files import LeftOut, expand_images, locate, shortened, unique
from sam3_runtime.media.sources import load_image
from tests.media.test_sources import write


def test_package_files() -> None:
    pytest.importorskip("skimage")
    assert load_image("package:skimage/data/coffee.png").shape == (400, 600, 3)
    with pytest.raises(SourceError, match=r"package:skimage/data/none\.png does not exist"):
        locate("package:skimage/data/none.png")
    with pytest.raises(SourceError, match="'no_such_package' is not installed"):
        locate("package:no_such_package/a.png")
    with pytest.raises(SourceError, match="names no file of a package"):
        locate("package:skimage")


def test_folders_globs_and_files_expand_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.bmp"):
        write(tmp_path / name.replace("JPG", "jpg")).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    names = [source.name for source in expand_images([tmp_path])]
    assert names == ["a.JPG", "b.png", "c.bmp"]
    names = [source.name for source in expand_images([tmp_path / "c.bmp", str(tmp_path / "*"), tmp_path])]
    assert names == ["c.bmp", "a.JPG", "b.png"]


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    specs = [write(tmp_path / folder / "Photo.png") for folder in ("left", "right", "deep/right")]
    specs.append(write(tmp_path / "other.png"))
    names = [source.name for source in expand_images(specs)]
    assert names == ["left/Photo.png", f"{tmp_path.name}/right/Photo.png", "deep/right/Photo.png", "other.png"]


def test_what_lies_beside_pictures_is_left_out_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.jpg").rename(tmp_path / "b.jfif")
    for name in ("._a.png", ".DS_Store", "c.HEIC", "d.heic", "e.gif", "Thumbs.db", "LICENSE"):
        (tmp_path / name).write_bytes(b"no picture that is read")
    (tmp_path / "folder.png").mkdir()
    told: list[LeftOut] = []
    assert [one.name for one in expand_images([tmp_path], told.append)] == ["a.png", "b.jfif"]
    (one,) = told
    assert one.images == 3
    said = f"{tmp_path}: 7 files left out: 2 .heic, 2 hidden, 1 .db, 1 .gif, 1 without a suffix"
    assert one.message == said
    assert "Hint: convert the images among them" in str(one)
    assert caplog.text == ""
    expand_images([tmp_path / "*.png", str(tmp_path / "._a.png")])
    assert caplog.text == "", "a hidden file that is named is wanted"
    expand_images([tmp_path])
    assert caplog.text.count("7 files left out") == 1
    (tmp_path / "phone").mkdir()
    (tmp_path / "c.HEIC").rename(tmp_path / "phone/c.HEIC")
    with pytest.raises(SourceError, match=r"contains no image: .*1 file left out: 1 \.heic"):
        expand_images([tmp_path / "phone"])


def test_names_are_told_apart_as_files_or_exactly() -> None:
    assert unique(["a.png", "A.png", "a.png"]) == ["a.png", "A-2.png", "a-3.png"]
    assert unique(["a.png", "A.png", "a.png"], fold=str) == ["a.png", "A.png", "a-2.png"]
    assert unique(["10.0.0.7", "10.0.0.7"]) == ["10.0.0.7", "10.0.0.7-2"]
    assert len(shortened("鍵" * 200).encode()) <= 160
    assert shortened("é" * 80) == "é" * 80


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    for spec in (tmp_path, tmp_path / "*.png", tmp_path / "none"):
        with pytest.raises(SourceError, match="Hint:"):
            expand_images([spec])
