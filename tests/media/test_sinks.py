from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import OutputError
from sam3_runtime.core.files import remove_abandoned_parts
from sam3_runtime.imaging.postprocess import Detections, rle_to_mask
from sam3_runtime.media.sinks import JsonLines, VideoSink, as_line, write_image
from sam3_runtime.media.sources import load_image, read_video


def noise(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def found(height: int = 90, width: int = 120, prompt: str = "cup", index: int = 0) -> Detections:
    masks = np.zeros((3, height, width), bool)
    masks[0, 30:60, 20:70] = True
    masks[1, :, :] = True
    boxes = np.asarray([[20, 30, 70, 60], [-5, -5, width + 9, height + 9], [5, 5, 6, 6]], np.float32)
    return Detections(prompt, index, boxes, np.asarray([0.9, 0.5, 0.4], np.float32), masks, np.arange(3))


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float = 10) -> None:
    with VideoSink(path, fps) as sink:
        for frame in frames:
            sink.write(frame)


def write_lines(path: Path, lines: Iterable[dict[str, object]]) -> None:
    with JsonLines(path) as file:
        for line in lines:
            file.write(line)


def test_lines_have_identities() -> None:
    lines = as_line((90, 120), [found()], [np.asarray([7, -1, 12])])["detections"]
    assert [line["track"] for line in lines] == [7, None, 12]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_picture_is_written_as_rgb(tmp_path: Path) -> None:
    write_image(tmp_path / "deep/down/a.png", noise())
    assert np.array_equal(load_image(tmp_path / "deep/down/a.png"), noise())
    with pytest.raises(OutputError, match=r"\.txt is not an image format"):
        write_image(tmp_path / "a.txt", noise())
    with pytest.raises(OutputError, match="no suffix"):
        write_image(tmp_path / "a", noise())


def test_a_line_holds_everything(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "out/found.jsonl") as file:
        file.write({"image": "Tür.png"} | as_line((90, 120), [found()]))
        assert not (tmp_path / "out/found.jsonl").exists()
    (line,) = (tmp_path / "out/found.jsonl").read_text(encoding="utf-8").splitlines()
    read = json.loads(line)
    assert (read["image"], read["width"], read["height"]) == ("Tür.png", 120, 90)
    first = read["detections"][0]
    assert (first["prompt"], first["score"], first["box"]) == ("cup", 0.9, [20, 30, 70, 60])
    assert np.array_equal(rle_to_mask(first["mask"]), found().masks[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["found.jsonl"]


def test_nothing_is_left_when_the_work_fails(tmp_path: Path) -> None:
    def failing(first: object) -> Iterator[Any]:
        yield first
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_lines(tmp_path / "a.jsonl", failing({}))
    with pytest.raises(ValueError, match="stop"):
        write_video(tmp_path / "a.mp4", failing(noise()))
    assert not list(tmp_path.iterdir())


def test_lines_that_are_live_are_there_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "out/cam.jsonl"
    path.parent.mkdir()
    path.write_text("of the run before\n")

    def work() -> None:
        with JsonLines(path, live=True) as file:
            for number in range(3):
                file.write({"frame": number, "text": "x" * 20_000})
                lines = path.read_text().splitlines()
                assert [json.loads(line)["frame"] for line in lines] == list(range(number + 1))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        work()
    assert len(path.read_text().splitlines()) == 3
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sam3_runtime.media.sinks import JsonLines, VideoSink
folder = Path(sys.argv[1])
video = VideoSink(folder / "clip.mp4", 10)
for _ in range(3):
    video.write(np.zeros((48, 64, 3), np.uint8))
for name, live in (("clip", False), ("cam", True)):
    lines = JsonLines(folder / f"{name}.jsonl", live=live)
    lines.write({"frame": 0})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="there every process counts as alive")
def test_what_a_killed_run_leaves_is_swept_and_live_lines_stay(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 3
    assert len(remove_abandoned_parts(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["cam.jsonl"]
    assert json.loads((tmp_path / "cam.jsonl").read_text()) == {"frame": 0}


def test_a_video_reads_back(tmp_path: Path) -> None:
    levels = [np.full((48, 64, 3), (level, 0, 0), np.uint8) for level in range(0, 250, 10)]
    write_video(tmp_path / "out/clip.mp4", levels, fps=12.5)
    with read_video(tmp_path / "out/clip.mp4") as back:
        frames = list(back)
        assert (back.info.fps, back.info.frames) == (12.5, 25)
    assert frames[20][24, 32] == pytest.approx((200, 0, 0), abs=12)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]


def test_a_video_without_frames_writes_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "written"), [((121, 161), (122, 162)), ((1, 1), (2, 2)), ((20, 9001), (18, 8190)), ((48, 64), (48, 64))]
)
def test_sizes_that_the_codec_does_not_take(tmp_path: Path, given: tuple[int, int], written: tuple[int, int]) -> None:
    """OpenCV itself cuts an odd row and column off, and says nothing."""
    frame = np.full((*given, 3), 90, np.uint8)
    frame[-1], frame[:, -1] = 180, 180
    with VideoSink(tmp_path / "clip.mp4", 10) as sink:
        for _ in range(3):
            sink.write(frame)
    with read_video(tmp_path / "clip.mp4") as back:
        (image, *_) = frames = list(back)
    assert (image.shape[:2], len(frames)) == (written, 3)
    height, width = given
    said = (
        f"clip.mp4 is {written[1]} x {written[0]} pixels, the nearest size for MP4; its frames are {width} x {height}"
    )
    assert sink.changes == ([] if given == written else [said])
    if given == (121, 161):
        assert image[120, :160].mean() == pytest.approx(180, abs=20), "the last row is there"


def test_frames_of_another_size_are_fitted_in(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [noise(48, 64), noise(64, 48)])
    with read_video(tmp_path / "clip.mp4") as back:
        assert [frame.shape for frame in back] == [(48, 64, 3)] * 2


def shown(path: Path) -> list[int]:
    with read_video(path) as back:
        return [round(float(frame.mean()) / 20) for frame in back]


def test_frames_are_shown_at_their_times(tmp_path: Path) -> None:
    """Until the next one, to half a frame; those that come too fast are not."""
    times = [3.0, 3.04, 3.08, 3.4, 3.41, 3.6]
    with VideoSink(tmp_path / "clip.mp4", 25) as sink:
        for number, seconds in enumerate(times):
            sink.write(np.full((48, 64, 3), number * 20, np.uint8), seconds)
    assert shown(tmp_path / "clip.mp4") == [0, 1, *[2] * 8, 3, *[4] * 4, 5]
    assert sink.changes == []


def test_a_clock_that_jumps_fills_no_disk(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "clip.mp4", 10, longest=2) as sink:
        for number, seconds in enumerate([0.0, 0.1, 1e6, 1e6 + 0.1]):
            sink.write(np.full((48, 64, 3), number * 20, np.uint8), seconds)
    assert shown(tmp_path / "clip.mp4") == [0, *[1] * 20, 2, 3]
    assert sink.changes == ["clip.mp4 shows no frame for more than 2 s"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"12:30.mp4"])
def test_a_video_of_any_name(tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path(os.fsdecode(name)), [noise()] * 3)
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [name]


def test_what_is_no_unicode_is_written_as_json_has_it(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"name": "caf\udce9"}, {"name": "鍵"}])
    lines = (tmp_path / "a.jsonl").read_bytes().decode("utf-8").splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["caf\udce9", "鍵"]


def test_a_video_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no video writer opens there"):
        write_video(tmp_path / "a.xyz", [noise()])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for write in (
        lambda: write_image(tmp_path / "out/a.png", noise()),
        lambda: JsonLines(tmp_path / "out/a.jsonl"),
        lambda: VideoSink(tmp_path / "out/a.mp4", 10).write(noise()),
    ):
        with pytest.raises(OutputError, match="cannot write"):
            write()


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_file(make_disk: Callable[[int], Path]) -> None:
    small_disk = make_disk(64)
    write_image(small_disk / "before.png", noise(20, 20))
    whole = (small_disk / "before.png").read_bytes()
    with pytest.raises(OutputError, match=r"cannot write .*big\.png: No space left on device\nHint: free some space"):
        write_image(small_disk / "big.png", noise(400, 400))
    with pytest.raises(OutputError, match=r"big\.jsonl: No space left"):
        write_lines(small_disk / "big.jsonl", [{"text": "x" * 4000}] * 100)
    with pytest.raises(OutputError, match=r"cannot write .*clip\.mp4"):
        write_video(small_disk / "clip.mp4", (noise(240, 320, seed) for seed in range(40)))
    assert [path.name for path in small_disk.iterdir()] == ["before.png"]
    assert (small_disk / "before.png").read_bytes() == whole


def test_a_video_stops_before_the_disk_is_full_and_can_be_closed(make_disk: Callable[[int], Path]) -> None:
    disk = make_disk(3000)
    sink = VideoSink(disk / "clip.mp4", 10)

    def fill() -> None:
        for seed in range(500):
            sink.write(noise(240, 320, seed))

    with pytest.raises(OutputError, match=r"cannot write .*clip\.mp4: the disk is full but for \d+ KiB \(after"):
        fill()
    assert 10 < sink.frames < 500
    sink.close()
    with read_video(disk / "clip.mp4") as back:
        assert len(list(back)) == sink.frames


def test_a_video_that_is_not_whole_is_told(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "clip.mp4", 10)
    for seed in range(20):
        sink.write(noise(48, 64, seed))
    sink.frames = 21
    with pytest.raises(OutputError, match="not all of its 21 frames are on the disk"):
        sink.close()
    assert not list(tmp_path.iterdir())
