from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sam3_runtime.cli import infer as cli_infer
from sam3_runtime.cli.infer import BOX_ON_VIDEO, Summary, infer
from sam3_runtime.cli.main import app
from sam3_runtime.core.errors import OutputError, RecordError, SourceError
from sam3_runtime.families.sam3.fake import write_fake_variant
from sam3_runtime.families.sam3.prompts import PromptError
from sam3_runtime.media.sources import load_image, read_video
from tests.media.test_sources import VARIABLE, not_utf8, odd_name
from tests.videos import with_edits, with_odd_size, with_times, write_clip

NO_FONT_HAS = "\U0010fffd"
"""A character for private use, the last there is."""


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    write_fake_variant(tmp_path / "engines/b4_q20_r112")
    return tmp_path / "engines/b4_q20_r112"


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    return path


def clip(path: Path, frames: int = 10, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 48))
    for index in range(frames):
        writer.write(np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def run(engines: Path, output: Path, **options: Any) -> tuple[Summary, str]:
    printed = io.StringIO()
    summary = infer(engines, output=output, console=Console(file=printed, soft_wrap=True), **options)
    return summary, printed.getvalue()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_summary_counts_what_there_was() -> None:
    assert Summary(images=1, found={"cup": 1}).lines() == ["1 picture: 1 x cup"]
    assert Summary(frames=10, found={"cup": 3, "red car": 0}).lines() == ["10 frames: 3 x cup, 0 x red car"]
    assert Summary(images=2, frames=1).lines() == ["2 pictures and 1 frame: nothing"]
    assert Summary().lines() == ["no picture: nothing"]


def test_pictures_video_and_lines(engines: Path, tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / "photos" / f"{index}.png", index)
    output = tmp_path / "out"
    gone = subprocess.Popen([sys.executable, "-c", ""])  # a run that was killed
    gone.wait()
    for left in (output / f".clip.mp4.{gone.pid}.part", output / f"images/.9.png.{gone.pid}.part"):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
    summary, printed = run(
        engines,
        output,
        images=[str(tmp_path / "photos")],
        video=str(clip(tmp_path / "clip.mp4")),
        prompts=["person", "red car"],
        boxes=["1,2,30,20", "4,4,9,9:0"],
    )
    assert (summary.images, summary.frames, summary.exit_code) == (6, 10, 0)
    assert printed.strip() == BOX_ON_VIDEO
    assert set(summary.found) == {"person", "red car", "visual"}
    pictures = lines(output / "images.jsonl")
    assert [line["image"] for line in pictures] == [f"{index}.png" for index in range(6)]
    assert sorted(path.name for path in (output / "images").iterdir()) == [f"{index}.png" for index in range(6)]
    assert not np.array_equal(load_image(output / "images/0.png"), load_image(tmp_path / "photos/0.png"))
    frames = lines(output / "clip.mp4.jsonl")
    assert [(line["frame"], line["seconds"]) for line in frames[:3]] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    with read_video(output / "clip.mp4") as video:
        assert len(list(video)) == len(frames) == 10
    total = sum(len(line["detections"]) for line in [*pictures, *frames])
    assert total == sum(summary.found.values()) > 0
    assert sorted(path.name for path in output.iterdir()) == ["clip.mp4", "clip.mp4.jsonl", "images", "images.jsonl"]
    assert summary.lines()[0].startswith("6 pictures and 10 frames: ")


def test_an_example_box_on_pictures_or_words_on_a_video_need_no_notice(engines: Path, tmp_path: Path) -> None:
    picture = str(photo(tmp_path / "photo.png"))
    assert run(engines, tmp_path / "one", images=[picture], boxes=["1,2,30,20"])[1] == ""
    assert run(engines, tmp_path / "two", video=str(clip(tmp_path / "clip.mp4")), prompts=["cat"])[1] == ""


def test_a_character_that_no_font_has_is_said_once(engines: Path, tmp_path: Path) -> None:
    named = [f"cup {NO_FONT_HAS}", f"{NO_FONT_HAS} car"]
    summary, printed = run(engines, tmp_path / "out", images=[str(photo(tmp_path / "a.png"))], prompts=named)
    assert printed.startswith(f"no font here has {NO_FONT_HAS}: labels show a box in its place\nHint: pip install ")
    assert (printed.count("no font"), summary.exit_code) == (1, 0)


def test_the_help_says_that_a_box_follows_nothing() -> None:
    said = CliRunner().invoke(app, ["infer", "--help"], env={"COLUMNS": "300"}).output
    assert "on a video it follows nothing (for that: stream --track" in said


def test_the_best_of_each_prompt_and_the_first_frames(engines: Path, tmp_path: Path) -> None:
    summary, _ = run(
        engines, tmp_path / "out", video=str(clip(tmp_path / "clip.mp4")), prompts=["cat"], top=2, frames=6
    )
    assert (summary.frames, summary.found, summary.exit_code) == (6, {"cat": 12}, 0)


def test_pictures_of_one_name_do_not_overwrite_each_other(engines: Path, tmp_path: Path) -> None:
    specs = [str(photo(tmp_path / side / "a.png", seed)) for seed, side in enumerate(("left", "right"))]
    run(engines, tmp_path / "out", images=specs, prompts=["cat"])
    assert [line["image"] for line in lines(tmp_path / "out/images.jsonl")] == ["left/a.png", "right/a.png"]
    assert (tmp_path / "out/images/left/a.png").is_file()
    assert (tmp_path / "out/images/right/a.png").is_file()


def test_a_picture_of_any_name_gets_a_picture(engines: Path, tmp_path: Path) -> None:
    odd = photo(tmp_path / "a.png").rename(tmp_path / "a.upload")
    run(engines, tmp_path / "out", images=[str(odd)], prompts=["cat"])
    assert (tmp_path / "out/images/a.upload.png").is_file()


def test_what_cannot_be_read_is_left_out_and_told(engines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for index in range(5):
        photo(folder / f"{index}.png", index)
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:500])
    (folder / "notes.jpg").write_text("a text file named .jpg")
    summary, printed = run(engines, tmp_path / "out", images=[str(folder)], prompts=["cat"])
    assert (summary.images, summary.exit_code, len(summary.problems)) == (4, 1, 2)
    assert f"{folder / '1.png'} is no picture that can be read: it is damaged or cut off" in printed
    assert f"{folder / 'notes.jpg'} is no picture that can be read: it holds text" in printed
    assert printed.count("Hint:") == 2
    assert [line["image"] for line in lines(tmp_path / "out/images.jsonl")] == ["0.png", "2.png", "3.png", "4.png"]
    assert summary.lines()[-1] == "2 could not be read whole, see above"


def test_pictures_that_are_not_read_are_counted_at_the_end(engines: Path, tmp_path: Path) -> None:
    photo(tmp_path / "photos/a.png")
    photo(tmp_path / "photos/b.jpg").rename(tmp_path / "photos/b.jfif")
    (tmp_path / "photos/._a.png").write_bytes(b"macOS")
    summary, printed = run(engines, tmp_path / "out", images=[str(tmp_path / "photos")], prompts=["cat"])
    assert (summary.images, summary.exit_code, printed.count("1 of its files is left out: 1 hidden")) == (2, 0, 1)
    assert (tmp_path / "out/images/b.jfif.png").is_file()
    for name in ("c.heic", "d.HEIC"):
        (tmp_path / "photos" / name).write_bytes(b"a phone's")
    summary, printed = run(engines, tmp_path / "out", images=[str(tmp_path / "photos")], prompts=["cat"])
    assert (summary.images, summary.exit_code) == (2, 1)
    assert printed.count("3 of its files are left out: 2 .heic, 1 hidden") == 1
    assert summary.lines()[-1] == "2 could not be read whole, see above"


@not_utf8
def test_names_of_any_kind_lose_no_result(engines: Path, tmp_path: Path) -> None:
    names = (b"caf\xe9.png", b"caf%E9.png", b"A.png", b"a.png", "鍵".encode() * 80 + b".png", b"new\nline.png")
    for name in names:
        photo(tmp_path / "photo.png").rename(odd_name(photo(tmp_path / "photos/b.png").parent, name))
    video = clip(tmp_path / "clip.mp4").rename(odd_name(tmp_path, b"caf\xe8.mp4"))
    output = odd_name(tmp_path, b"out\xff")
    summary, printed = run(engines, output, images=[str(tmp_path / "photos")], video=str(video), prompts=["cat"])
    assert (summary.images, summary.frames, summary.exit_code, printed) == (7, 10, 0, "")
    shown = {line["image"] for line in lines(output / "images.jsonl")}
    assert shown == {"caf%E9.png", "caf%E9-2.png", "A.png", "a.png", f"{'鍵' * 80}.png", "new\nline.png", "b.png"}
    written = {path.name for path in (output / "images").iterdir()}
    assert written == {
        "caf%E9.png", "caf%E9-2.png", "A.png", "a-2.png", f"{'鍵' * 53}.png", "new\nline.png", "b.png"
    }  # fmt: skip
    assert len(lines(output / "caf%E8.mp4.jsonl")) == 10
    assert (output / "caf%E8.mp4").is_file()
    "".join(summary.lines()).encode()


def test_a_variable_rate_keeps_its_times(engines: Path, tmp_path: Path) -> None:
    path = with_times(write_clip(tmp_path / "clip.mp4", 10), VARIABLE)
    summary, _ = run(engines, tmp_path / "out", video=str(path), prompts=["cat"])
    assert (summary.frames, summary.exit_code) == (10, 0)
    found = lines(tmp_path / "out/clip.mp4.jsonl")
    assert [(line["frame"], line["seconds"]) for line in found] == [(n, time / 1e3) for n, time in enumerate(VARIABLE)]
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert video.info.fps == 25
        assert len(list(video)) == 251


def test_an_edit_list_is_no_damage(engines: Path, tmp_path: Path) -> None:
    path = with_edits(write_clip(tmp_path / "clip.mp4"), (1600, 4))
    summary, printed = run(engines, tmp_path / "out", video=str(path), prompts=["cat"])
    assert (summary.frames, summary.exit_code, printed) == (16, 0, "")


def test_a_size_that_cannot_be_kept_is_said(engines: Path, tmp_path: Path) -> None:
    path = with_odd_size(write_clip(tmp_path / "clip.avi", 5, size=(162, 122), codec="MJPG"))
    with read_video(path) as video:
        assert [image.shape for image in video] == [(121, 161, 3)] * 5
    summary, _ = run(engines, tmp_path / "out", video=str(path), prompts=["cat"])
    assert summary.lines()[-1] == "clip.mp4 is 162 x 122 pixels, as MP4 has it, not 161 x 121 as its frames"
    assert summary.exit_code == 0
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert [image.shape for image in video] == [(122, 162, 3)] * 5
    assert lines(tmp_path / "out/clip.mp4.jsonl")[0]["width"] == 161, "results are of the source"


def test_what_was_found_before_an_error_is_kept(engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        photo(tmp_path / "photos" / f"{index}.png", index)
    write, drawn = cli_infer.write_picture, cli_infer.draw
    calls: list[int] = []

    def full(path: Path, image: Any) -> None:
        if path.name == "4.png":
            raise OutputError("the disk is full")
        write(path, image)

    def broken(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 7:
            raise OutputError("no more")
        return drawn(*arguments)

    monkeypatch.setattr(cli_infer, "write_picture", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run(engines, tmp_path / "out", images=[str(tmp_path / "photos")], prompts=["cat"])
    assert [line["image"] for line in lines(tmp_path / "out/images.jsonl")] == [f"{n}.png" for n in range(4)]
    monkeypatch.setattr(cli_infer, "draw", broken)
    calls.clear()
    with pytest.raises(OutputError, match="no more"):
        run(engines, tmp_path / "out", video=str(clip(tmp_path / "clip.mp4")), prompts=["cat"])
    assert len(lines(tmp_path / "out/clip.mp4.jsonl")) == 7
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert len(list(video)) == 7
    assert not list((tmp_path / "out").glob(".*"))


def test_a_video_that_ends_early_keeps_what_there_was(engines: Path, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.avi", 40, "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    summary, printed = run(engines, tmp_path / "out", video=str(path), prompts=["cat"])
    assert 0 < summary.frames < 40
    assert summary.exit_code == 1
    assert f"clip.avi ends early: {summary.frames} frames could be decoded, and its header promises 40" in printed
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert len(list(video)) == summary.frames == len(lines(tmp_path / "out/clip.mp4.jsonl"))


def test_a_video_that_does_not_open_leaves_the_pictures(engines: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("no video")
    summary, printed = run(
        engines,
        tmp_path / "out",
        images=[str(photo(tmp_path / "a.png"))],
        video=str(tmp_path / "clip.mp4"),
        prompts=["cat"],
    )
    assert (summary.images, summary.frames, summary.exit_code) == (1, 0, 1)
    assert "no video that can be opened" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "images.jsonl"]


def test_nothing_of_the_users_is_overwritten(engines: Path, tmp_path: Path) -> None:
    picture = photo(tmp_path / "out/images/a.png")
    before = picture.read_bytes()
    with pytest.raises(OutputError, match="would be overwritten"):
        run(engines, tmp_path / "out", images=[str(picture)], prompts=["cat"])
    video = clip(tmp_path / "clip.mp4")
    with pytest.raises(OutputError, match="would be overwritten"):
        run(engines, tmp_path, video=str(video), prompts=["cat"])
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": ["a.png"]}, PromptError, "nothing to look for"),
        ({"prompts": ["cat"]}, SourceError, "nothing to look at"),
        ({"prompts": ["cat"], "images": ["none.png"]}, SourceError, r"none\.png does not exist"),
        ({"prompts": ["cat"], "video": "none.mp4"}, SourceError, r"none\.mp4 does not exist"),
        ({"prompts": ["cat"], "images": ["https://a.org/a.png"]}, SourceError, "is an address, and files are read"),
        ({"prompts": ["cat"], "video": "https://a.org/a.mp4"}, SourceError, r"is an address.*\n.*stream --source"),
        ({"prompts": ["caf\udce9"], "images": ["a.png"]}, PromptError, "is no Unicode"),
        ({"boxes": ["nan,2,3,4"], "images": ["a.png"]}, PromptError, "is empty"),
        ({"boxes": ["1,2,3"], "images": ["a.png"]}, PromptError, "'1,2,3' is no box"),
        ({"boxes": ["1,2,3,4:x"], "images": ["a.png"]}, PromptError, "is no box"),
    ],
)
def test_wrong_arguments_end_before_engines_are_loaded(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "no engines", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_wrong_engines(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is no folder"):
        run(tmp_path / "none", tmp_path / "out", images=[str(photo(tmp_path / "a.png"))], prompts=["cat"])
