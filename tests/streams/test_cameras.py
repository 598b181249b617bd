"""What a source names: which frames of what, under which name."""

from __future__ import annotations

import os
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.streams.cameras import Camera, ImageFiles, Source, VideoFile, find_sources, unique
from tests.media.test_sources import cut, odd_name, write, write_video
from tests.streaming import Capture, camera, picture, within


def frames(source: Source) -> tuple[list[tuple[int, Image]], list[str]]:
    problems: list[str] = []
    read = source.read(lambda problem: problems.append(str(problem)))
    return [(frame.number, frame.image) for frame in read], problems


def until_it_fails(source: Source) -> tuple[list[tuple[int, Image]], str]:
    """The frames before the error, and what it says."""
    read = []
    try:
        for frame in source.read(lambda _: None):
            read.append((frame.number, frame.image))
    except SourceError as error:
        return read, str(error)
    pytest.fail("it ends well")


def values(source: Source) -> list[int]:
    return [int(image[0, 0, 0]) for _, image in frames(source)[0]]


def test_a_folder_of_pictures_is_one_source_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2, 100):
        write(tmp_path / f"shop/frame_{number}.png", (number, 0, 0))
    (source,) = find_sources([tmp_path / "shop"], fps=5)
    assert (source.name, source.fps, source.frames, source.live) == ("shop", 5, 4, False)
    assert values(source) == [2, 9, 10, 100]
    assert values(source) == [2, 9, 10, 100], "it may be read again"


def test_numbered_frames(tmp_path: Path) -> None:
    for number in (3, 12, 7, 100000):
        write(tmp_path / f"frames_{number:05d}.png", (number % 256, 0, 0))
    write(tmp_path / "frames_1.png")
    write(tmp_path / "other_00001.png")
    (source,) = find_sources([str(tmp_path / "frames_%05d.png")])
    assert source.name == "frames"
    assert values(source) == [3, 7, 12, 100000 % 256]
    assert [one.frames for one in find_sources([str(tmp_path / "frames_%d.png")])] == [5]
    with pytest.raises(SourceError, match="matches no file"):
        find_sources([str(tmp_path / "none_%05d.png")])


@pytest.mark.parametrize(
    ("numbers", "places", "missing"),
    [
        ([7, 8, 10, 13], [0, 1, 3, 6], 3),
        ([0, 10, 20, 40], [0, 1, 2, 4], 1),
        ([5], [0], 0),
        ([20240131, 20240207, 20250101], [0, 1, 2], 0),
    ],
    ids=["gaps", "every tenth", "one", "dates"],
)
def test_gaps_in_numbers_are_gaps_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, numbers: list[int], places: list[int], missing: int
) -> None:
    for number in numbers:
        write(tmp_path / f"f{number:05d}.png")
    (source,) = find_sources([str(tmp_path / "f%05d.png")], fps=5)
    read = list(source.read(lambda _: None))
    assert [(one.number, one.seconds) for one in read] == [(place, place / 5) for place in places]
    assert [f"{missing} numbers are missing" in one for one in caplog.messages] == [True] * bool(missing)


def test_globs_and_folders_of_videos_are_a_source_each(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_video(tmp_path / f"{name}.avi", 4)
    write(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("not looked at")
    assert [one.name for one in find_sources([str(tmp_path / "*.avi")])] == ["a", "b"]
    assert [one.name for one in find_sources([tmp_path])] == [tmp_path.name, "a", "b"]
    for empty in (str(tmp_path / "*.mov"), str(tmp_path / "*.txt")):
        with pytest.raises(SourceError, match="contains no image or video"):
            find_sources([empty])


def test_a_video_has_its_own_pace(tmp_path: Path) -> None:
    (source,) = find_sources([write_video(tmp_path / "clip.avi", 20)])
    assert (source.name, source.fps, source.frames) == ("clip", 10.0, 20)
    assert [number for number, _ in frames(source)[0]] == list(range(20))


def test_files_stand_for_several_cameras(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / name, 3) for name in ("a.avi", "b.avi")]
    sources = find_sources(videos, cameras=5)
    assert [one.name for one in sources] == ["a", "b", "a-2", "b-2", "a-3"]
    assert [len(values(one)) for one in sources] == [3] * 5
    with pytest.raises(SourceError, match="2 sources are given for 1 camera\n"):
        find_sources(videos, cameras=1)
    with pytest.raises(SourceError, match="cannot simulate several cameras"):
        find_sources(["camera:0"], cameras=2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_are_told_apart_and_fit_for_files(tmp_path: Path) -> None:
    assert unique(["a", "A", "a-2", "b"]) == ["a", "A-2", "a-2-2", "b"]
    odd = write_video(tmp_path / "a.avi", 2).rename(tmp_path / "what? 50%.avi")
    assert [one.name for one in find_sources([odd])] == ["what- 50"]
    long = write_video(tmp_path / "a.avi", 2).rename(tmp_path / f"{'鍵' * 80}.avi")
    assert [len(one.name.encode()) for one in find_sources([long])] == [159]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    for name in (b"caf\xe9.avi", b"caf\xe8.avi"):
        write_video(tmp_path / "a.avi", 2).rename(odd_name(tmp_path, name))
    sources = find_sources([tmp_path])
    assert sorted(one.name for one in sources) == ["caf%E8", "caf%E9"]
    assert [len(values(one)) for one in sources] == [2, 2]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("camera:2", "camera-2"),
        ("rtsp://user:secret@10.0.0.7:554/live/1?token=secret", "10.0.0.7-live-1"),
        ("HTTP://cam.example/video.mjpg", "cam.example-video.mjpg"),
    ],
)
def test_live_sources_are_not_opened_beforehand_and_tell_no_password(spec: str, name: str) -> None:
    (source,) = find_sources([spec])
    assert (type(source), source.name, source.live, source.frames) == (Camera, name, True, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("camera:front", "'camera:front' names no camera"),
        ("nowhere.mp4", "nowhere.mp4 does not exist"),
        ("/dev/null", "/dev/null is not a file"),
    ],
)
def test_wrong_names(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        find_sources([spec])


def test_nothing_to_look_at() -> None:
    with pytest.raises(SourceError, match="no source is given"):
        find_sources([])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SourceError, match="is not a file"):
        find_sources([tmp_path / "pipe.mp4"])


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_read_leaves_a_gap(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png", (number, 0, 0))
    cut(tmp_path / "2.png", 0.5)
    (source,) = find_sources([tmp_path])
    read, problems = frames(source)
    assert [(number, int(image[0, 0, 0])) for number, image in read] == [(0, 0), (1, 1), (3, 3)]
    assert len(problems) == 1
    assert "2.png is not a readable image: it is damaged or cut off" in problems[0]


def noisy_video(path: Path, count: int = 40) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (320, 240))
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 50, (240, 320, 3), dtype=np.uint8)
        writer.write(np.full((240, 320, 3), number * 5, np.uint8) + noise)
    writer.release()
    return path


def test_a_corrupt_frame_in_the_middle_is_told_and_the_others_keep_their_place(tmp_path: Path) -> None:
    path = noisy_video(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    middle, width = len(data) // 2, len(data) // 15
    data[middle : middle + width] = bytes(width)
    path.write_bytes(data)
    read, fault = until_it_fails(VideoFile("clip", path))
    assert re.search(r"is damaged: \d+ frames lost before its end: \d+ frames could be decoded, .* promises 40", fault)
    numbers = [number for number, _ in read]
    assert numbers[:10] == list(range(10))
    assert numbers[-1] == 39
    assert 30 <= len(numbers) < 40
    for number, image in read[-5:]:
        assert image.mean() == pytest.approx(number * 5 + 25, abs=4), "numbers are those of the frames"


def test_a_video_that_does_not_open_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("no video")
    for spec in (tmp_path / "clip.mp4", tmp_path):
        with pytest.raises(SourceError, match=r"clip\.mp4 cannot be opened as a video"):
            find_sources([spec])


def test_a_folders_video_that_does_not_open_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    write_video(tmp_path / "b.avi", 3)
    (source,) = find_sources([tmp_path])
    read, problems = frames(source)
    assert (source.name, len(read), len(problems)) == ("b", 3, 1)
    assert "a.mp4 cannot be opened as a video" in problems[0]


def test_what_lies_beside_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.png")
    for name in ("._a.png", "._b.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"none")
    (source,) = find_sources([tmp_path])
    assert frames(source)[1] == []
    assert caplog.messages == [f"{tmp_path}: 3 files left out: 2 hidden, 1 .txt"]
    (tmp_path / "b.HEIC").write_bytes(b"none")
    (source,) = find_sources([tmp_path])
    assert len(caplog.messages) == 1
    (problem,) = frames(source)[1]
    assert problem.startswith(f"{tmp_path}: 4 files left out: 2 hidden, 1 .heic, 1 .txt\nHint: convert")


# --- cameras ----------------------------------------------------------------------------------------------------------


def test_a_camera_gives_frames_until_it_fails() -> None:
    capture = Capture([picture(1), picture(2)])
    source = camera("cam", [capture])
    read, fault = until_it_fails(source)
    assert [(number, int(image[0, 0, 0])) for number, image in read] == [(0, 1), (1, 2)]
    assert fault == "cam delivers no more frames (after 2)"
    assert source.fps == 10
    assert capture.released.is_set()


def test_a_camera_that_does_not_open() -> None:
    with pytest.raises(SourceError, match="cam does not open"):
        next(camera("cam", []).read(lambda _: None))


def test_an_address_is_read_by_opencv(tmp_path: Path) -> None:
    """Over HTTP, from this machine; and one where nobody answers."""
    write_video(tmp_path / "clip.avi", 6)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    (source,) = find_sources([f"{address}/clip.avi"])
    try:
        read, fault = within(lambda: until_it_fails(source))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [number for number, _ in read] == list(range(6))
    assert [int(image.mean()) for _, image in read] == pytest.approx([n * 10 for n in range(6)], abs=4)
    assert fault == "127.0.0.1-clip.avi delivers no more frames (after 6)"
    (nobody,) = find_sources([f"{address}/clip.avi"])
    assert "does not open" in within(lambda: until_it_fails(nobody))[1]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("pixels", "rgb"),
    [
        (np.full((4, 4), 9, np.uint8), [9, 9, 9]),
        (np.full((4, 4, 1), 9, np.uint8), [9, 9, 9]),
        (np.full((4, 4), 257 * 9, np.uint16), [9, 9, 9]),
        (np.full((4, 4, 4), (1, 2, 3, 0), np.uint8), [3, 2, 1]),
        (np.full((4, 4, 3), (1, 2, 3), np.uint8), [3, 2, 1]),
    ],
    ids=["grey", "grey with an axis", "16 bits", "with alpha", "BGR"],
)
def test_whatever_a_camera_gives_becomes_rgb(pixels: Any, rgb: list[int]) -> None:
    image = next(camera("cam", [Capture([pixels])]).read(lambda _: None)).image
    assert (image.dtype, image.shape, image[0, 0].tolist()) == (np.uint8, (4, 4, 3), rgb)


def test_pictures_of_any_kind_in_one_source(tmp_path: Path) -> None:
    """Grey, with alpha, 16 bits, and turned by EXIF: of several sizes."""
    cv2.imwrite(str(tmp_path / "0.png"), np.full((4, 6), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "1.png"), np.full((5, 6, 4), (0, 0, 255, 10), np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((6, 6, 3), (0, 32896, 65535), np.uint16))
    turned = write(tmp_path / "3.jpg", size=(8, 12))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = turned.read_bytes()
    turned.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    source = ImageFiles("all", sorted(tmp_path.iterdir()))
    read, problems = frames(source)
    assert problems == []
    assert [image.shape for _, image in read] == [(4, 6, 3), (5, 6, 3), (6, 6, 3), (12, 8, 3)]
    assert [image[0, 0].tolist() for _, image in read[:3]] == [[77, 77, 77], [255, 0, 0], [255, 128, 0]]
