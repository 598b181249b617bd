from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sam3_runtime.cli.infer import infer
from sam3_runtime.cli.main import app
from sam3_runtime.cli.stream import BOX_ON_VIDEO, StreamOutcome
from sam3_runtime.core.errors import OutputError, RecordError, SourceError
from sam3_runtime.core.files import temporary_name
from sam3_runtime.families.sam3.banks import Bank
from sam3_runtime.families.sam3.prompts import PromptError
from sam3_runtime.media.sinks import VideoSink
from sam3_runtime.media.sources import load_image, read_video
from sam3_runtime.streams import outputs
from tests.media.test_sources import VARIABLE, not_utf8, odd_name
from tests.projects import CLASSES, WriteProject
from tests.videos import with_edits, with_odd_size, with_times, write_clip

NO_FONT_HAS = "\U0010fffd"
"""A character for private use, the last there is."""


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


def run(engines: Path, output: Path, **options: Any) -> tuple[StreamOutcome, str]:
    printed = io.StringIO()
    outcome = infer(engines, output=output, console=Console(file=printed, soft_wrap=True), **options)
    return outcome, printed.getvalue()


def frames_of(outcome: StreamOutcome) -> dict[str, int]:
    return {one.source: one.frames for one in outcome.summary.sources}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pictures_video_and_lines(fake_variant: Path, tmp_path: Path) -> None:
    for index in range(6):
        photo(tmp_path / "photos" / f"{index}.png", index)
    output = tmp_path / "out"
    gone = subprocess.Popen([sys.executable, "-c", ""])  # a run that was killed
    gone.wait()
    for kept in (output / "clip.mp4", output / "images/9.png"):
        own = temporary_name(kept)
        left = own.with_name(own.name.replace(f"-{os.getpid()}.", f"-{gone.pid}."))
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
    outcome, printed = run(
        fake_variant, output, images=[str(tmp_path / "photos")], video=str(clip(tmp_path / "clip.mp4")),
        prompts=["person", "red car"], boxes=["1,2,30,20", "4,4,9,9:0"],
    )  # fmt: skip
    assert (frames_of(outcome), outcome.exit_code) == ({"images": 6, "clip": 10}, 0)
    assert printed.strip() == BOX_ON_VIDEO
    assert set(outcome.summary.found) == {"person", "red car", "visual"}
    pictures = lines(output / "images.jsonl")
    assert [line["image"] for line in pictures] == [f"{index}.png" for index in range(6)]
    assert sorted(path.name for path in (output / "images").iterdir()) == [f"{index}.png" for index in range(6)]
    assert not np.array_equal(load_image(output / "images/0.png"), load_image(tmp_path / "photos/0.png"))
    frames = lines(output / "clip.mp4.jsonl")
    assert [(line["frame"], line["seconds"]) for line in frames[:3]] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    with read_video(output / "clip.mp4") as video:
        assert len(list(video)) == len(frames) == 10
    total = sum(len(line["detections"]) for line in [*pictures, *frames])
    assert total == sum(outcome.summary.found.values()) > 0
    names = ["clip.mp4", "clip.mp4.jsonl", "images", "images.jsonl", "summary.json"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert outcome.lines()[0].startswith("found in 16 images: ")
    assert list(pictures[0]) == ["image", "width", "height", "detections"]
    assert list(frames[0]) == ["video", "frame", "seconds", "width", "height", "detections"]


def test_relative_boxes_are_pixels_of_each_image(fake_variant: Path, tmp_path: Path) -> None:
    """Images of 40 x 60 pixels."""
    images = [str(photo(tmp_path / f"{index}.png", index)) for index in range(2)]
    pixels = ["6,10,30,20", "3,2,9,8:0"]
    shares = ["0.1,0.25,0.5,0.5", "0.05,0.05,0.15,0.2:0"]
    run(fake_variant, tmp_path / "pixels", images=images, boxes=pixels, top=3)
    run(fake_variant, tmp_path / "shares", images=images, boxes=shares, relative_boxes=True, top=3)
    found = lines(tmp_path / "pixels/images.jsonl")
    assert [len(line["detections"]) for line in found] == [3, 3]
    assert lines(tmp_path / "shares/images.jsonl") == found
    run(fake_variant, tmp_path / "others", images=images, boxes=["0.1,0.25,0.5,0.5"], relative_boxes=True, top=3)
    assert lines(tmp_path / "others/images.jsonl") != found


def test_the_classes_of_a_bank_and_of_a_project(
    fake_variant: Path, shop_bank: Bank, write_project: WriteProject, tmp_path: Path
) -> None:
    images = [str(photo(tmp_path / f"{index}.png", index)) for index in range(2)]
    shop_bank.save(tmp_path / "shop.npz")
    write_project(CLASSES)
    outcome, printed = run(fake_variant, tmp_path / "bank", images=images, bank=tmp_path / "shop.npz")
    assert list(outcome.summary.found) == ["person", "mug", "logo"]
    assert "text-encoder and geometry-encoder stay closed" in printed
    run(fake_variant, tmp_path / "project", images=images, project=tmp_path / "shop.yaml")
    found = lines(tmp_path / "bank/images.jsonl")
    assert lines(tmp_path / "project/images.jsonl") == found
    scores = [one["score"] for line in found for one in line["detections"]]
    assert len(scores) > 5
    assert min(scores) > 0.45
    run(fake_variant, tmp_path / "all", images=images, project=tmp_path / "shop.yaml", conf=0.1)
    lowest = min(one["score"] for line in lines(tmp_path / "all/images.jsonl") for one in line["detections"])
    assert 0.1 < lowest < 0.45, "of all classes"


def test_every_kind_of_output_and_tracks(fake_variant: Path, tmp_path: Path) -> None:
    """Identities are for the video: the images do not follow each other."""
    images = [str(photo(tmp_path / f"{index}.png", index)) for index in range(3)]
    video = str(clip(tmp_path / "clip.mp4"))
    outcome, _ = run(
        fake_variant, tmp_path / "out", images=images, video=video, prompts=["cat"], top=1, track=True, frames=4,
        save=["video", "images", "jsonl", "coco"],
    )  # fmt: skip
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == [
        "clip.mp4", "clip.mp4.jsonl", *(f"clip/{number:08d}.jpg" for number in range(4)), "coco.json",
        "images.jsonl", "images.mp4", *(f"images/{number}.png" for number in range(3)), "summary.json",
    ]  # fmt: skip
    tracked = {name: lines(tmp_path / f"out/{name}.jsonl") for name in ("images", "clip.mp4")}
    assert ["track" in line["detections"][0] for line in tracked["images"]] == [False] * 3
    assert ["track" in line["detections"][0] for line in tracked["clip.mp4"]] == [True] * 4
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert sorted(one["file_name"] for one in coco["images"] if "file_name" in one) == ["0.png", "1.png", "2.png"]
    assert (len(coco["images"]), len(coco["annotations"])) == (7, 7)
    assert {path.name for path in outcome.written} >= {"coco.json", "summary.json", "images.mp4"}
    run(fake_variant, tmp_path / "lines", images=images, prompts=["cat"], save=["jsonl"])
    assert sorted(path.name for path in (tmp_path / "lines").iterdir()) == ["images.jsonl", "summary.json"]
    with pytest.raises(OutputError, match=r"'gif' is not a kind of output\nHint: name some of video, images"):
        run(fake_variant, tmp_path / "gif", images=images, prompts=["cat"], save=["video", "gif"])


def test_an_example_box_on_pictures_or_words_on_a_video_need_no_notice(fake_variant: Path, tmp_path: Path) -> None:
    picture = str(photo(tmp_path / "photo.png"))
    assert run(fake_variant, tmp_path / "one", images=[picture], boxes=["1,2,30,20"])[1] == ""
    assert run(fake_variant, tmp_path / "two", video=str(clip(tmp_path / "clip.mp4")), prompts=["cat"])[1] == ""


def test_a_character_that_no_font_has_is_said_once(fake_variant: Path, tmp_path: Path) -> None:
    named = [f"cup {NO_FONT_HAS}", f"{NO_FONT_HAS} car"]
    outcome, printed = run(fake_variant, tmp_path / "out", images=[str(photo(tmp_path / "a.png"))], prompts=named)
    assert printed.startswith(f"no font here has {NO_FONT_HAS}: labels show a box instead\nHint: pip install ")
    assert (printed.count("no font"), outcome.exit_code) == (1, 0)


def test_the_help_says_that_a_box_follows_nothing() -> None:
    said = CliRunner().invoke(app, ["infer", "--help"], env={"COLUMNS": "300"}).output
    assert "on a video it follows nothing (for that: stream --track" in said


def test_the_best_of_each_prompt_and_the_first_frames(fake_variant: Path, tmp_path: Path) -> None:
    photos = [str(photo(tmp_path / f"{index}.png", index)) for index in range(7)]
    outcome, _ = run(
        fake_variant,
        tmp_path / "out",
        images=photos,
        video=str(clip(tmp_path / "clip.mp4")),
        prompts=["cat"],
        top=2,
        frames=6,
    )
    assert (frames_of(outcome), outcome.exit_code) == ({"images": 7, "clip": 6}, 0)
    assert outcome.summary.found == {"cat": 26}


def test_pictures_of_one_name_do_not_overwrite_each_other(fake_variant: Path, tmp_path: Path) -> None:
    specs = [str(photo(tmp_path / side / "a.png", seed)) for seed, side in enumerate(("left", "right"))]
    run(fake_variant, tmp_path / "out", images=specs, prompts=["cat"])
    assert [line["image"] for line in lines(tmp_path / "out/images.jsonl")] == ["left/a.png", "right/a.png"]
    assert (tmp_path / "out/images/left/a.png").is_file()
    assert (tmp_path / "out/images/right/a.png").is_file()


def test_a_picture_of_any_name_gets_a_picture(fake_variant: Path, tmp_path: Path) -> None:
    odd = photo(tmp_path / "a.png").rename(tmp_path / "a.upload")
    run(fake_variant, tmp_path / "out", images=[str(odd)], prompts=["cat"])
    assert (tmp_path / "out/images/a.upload.png").is_file()


def test_what_cannot_be_read_is_left_out_and_told(fake_variant: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for index in range(5):
        photo(folder / f"{index}.png", index)
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:500])
    (folder / "notes.jpg").write_text("a text file named .jpg")
    outcome, printed = run(fake_variant, tmp_path / "out", images=[str(folder)], prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code, outcome.summary.total.failures) == ({"images": 4}, 1, 2)
    assert f"{folder / '1.png'} is not a readable image: it is damaged or cut off" in printed
    assert f"{folder / 'notes.jpg'} is not a readable image: it contains text" in printed
    assert printed.count("Hint:") == 2
    assert [line["image"] for line in lines(tmp_path / "out/images.jsonl")] == ["0.png", "2.png", "3.png", "4.png"]
    assert outcome.lines()[-1] == "incomplete, see above: images"


def test_pictures_that_are_not_read_are_counted_at_the_end(fake_variant: Path, tmp_path: Path) -> None:
    photo(tmp_path / "photos/a.png")
    photo(tmp_path / "photos/b.jpg").rename(tmp_path / "photos/b.jfif")
    (tmp_path / "photos/._a.png").write_bytes(b"macOS")
    outcome, printed = run(fake_variant, tmp_path / "out", images=[str(tmp_path / "photos")], prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code) == ({"images": 2}, 0)
    assert printed.count("1 file left out: 1 hidden") == 1
    assert (tmp_path / "out/images/b.jfif.png").is_file()
    for name in ("c.heic", "d.HEIC"):
        (tmp_path / "photos" / name).write_bytes(b"a phone's")
    outcome, printed = run(fake_variant, tmp_path / "out", images=[str(tmp_path / "photos")], prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code) == ({"images": 2}, 1)
    assert printed.count("3 files left out: 2 .heic, 1 hidden") == 1
    assert outcome.lines()[-1] == "incomplete, see above: images"


@not_utf8
def test_names_of_any_kind_lose_no_result(fake_variant: Path, tmp_path: Path) -> None:
    names = (b"caf\xe9.png", b"caf%E9.png", b"A.png", b"a.png", "鍵".encode() * 80 + b".png", b"new\nline.png")
    for name in names:
        photo(tmp_path / "photo.png").rename(odd_name(photo(tmp_path / "photos/b.png").parent, name))
    video = clip(tmp_path / "clip.mp4").rename(odd_name(tmp_path, b"caf\xe8.mp4"))
    output = odd_name(tmp_path, b"out\xff")
    outcome, printed = run(fake_variant, output, images=[str(tmp_path / "photos")], video=str(video), prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code, printed) == ({"images": 7, "caf%E8": 10}, 0, "")
    shown = {line["image"] for line in lines(output / "images.jsonl")}
    assert shown == {"caf%E9.png", "caf%E9-2.png", "A.png", "a.png", f"{'鍵' * 80}.png", "new\nline.png", "b.png"}
    written = {path.name for path in (output / "images").iterdir()}
    assert written == {
        "caf%E9.png", "caf%E9-2.png", "A.png", "a-2.png", f"{'鍵' * 53}.png", "new\nline.png", "b.png"
    }  # fmt: skip
    assert len(lines(output / "caf%E8.mp4.jsonl")) == 10
    assert (output / "caf%E8.mp4").is_file()
    "".join(outcome.lines()).encode()


def test_a_variable_rate_keeps_its_times(fake_variant: Path, tmp_path: Path) -> None:
    path = with_times(write_clip(tmp_path / "clip.mp4", 10), VARIABLE)
    outcome, _ = run(fake_variant, tmp_path / "out", video=str(path), prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code) == ({"clip": 10}, 0)
    found = lines(tmp_path / "out/clip.mp4.jsonl")
    assert [(line["frame"], line["seconds"]) for line in found] == [(n, time / 1e3) for n, time in enumerate(VARIABLE)]
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert video.info.fps == 25
        assert len(list(video)) == 251


def test_an_edit_list_is_no_damage(fake_variant: Path, tmp_path: Path) -> None:
    path = with_edits(write_clip(tmp_path / "clip.mp4"), (1600, 4))
    outcome, printed = run(fake_variant, tmp_path / "out", video=str(path), prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code, printed) == ({"clip": 16}, 0, "")


def test_a_size_that_cannot_be_kept_is_said(fake_variant: Path, tmp_path: Path) -> None:
    path = with_odd_size(write_clip(tmp_path / "clip.avi", 5, size=(162, 122), codec="MJPG"))
    with read_video(path) as video:
        assert [image.shape for image in video] == [(121, 161, 3)] * 5
    outcome, _ = run(fake_variant, tmp_path / "out", video=str(path), prompts=["cat"])
    assert outcome.lines()[-1] == "clip.mp4 is 162 x 122 pixels, the nearest size for MP4; its frames are 161 x 121"
    assert outcome.exit_code == 0
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert [image.shape for image in video] == [(122, 162, 3)] * 5
    assert lines(tmp_path / "out/clip.mp4.jsonl")[0]["width"] == 161, "results are of the source"


def test_what_was_found_before_an_error_is_kept(
    fake_variant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(6):
        photo(tmp_path / "photos" / f"{index}.png", index)
    write, write_frame = outputs.write_image, VideoSink.write

    def full(path: Path, image: Any) -> None:
        if path.name == "4.png":
            raise OutputError("the disk is full")
        write(path, image)

    def broken(self: VideoSink, frame: Any, seconds: float) -> None:
        if self.frames == 7:
            raise OutputError("no more")
        write_frame(self, frame, seconds)

    monkeypatch.setattr(outputs, "write_image", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run(fake_variant, tmp_path / "out", images=[str(tmp_path / "photos")], prompts=["cat"])
    assert [line["image"] for line in lines(tmp_path / "out/images.jsonl")] == [f"{n}.png" for n in range(4)]
    monkeypatch.setattr(VideoSink, "write", broken)
    with pytest.raises(OutputError, match="no more"):
        run(fake_variant, tmp_path / "out", video=str(clip(tmp_path / "clip.mp4")), prompts=["cat"])
    assert len(lines(tmp_path / "out/clip.mp4.jsonl")) == 7
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert len(list(video)) == 7
    assert not list((tmp_path / "out").glob(".*"))


def test_a_video_that_ends_early_keeps_what_there_was(fake_variant: Path, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.avi", 40, "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outcome, printed = run(fake_variant, tmp_path / "out", video=str(path), prompts=["cat"])
    frames = frames_of(outcome)["clip"]
    assert 0 < frames < 40
    assert outcome.exit_code == 1
    assert f"clip.avi ends early: {frames} frames could be decoded, and its header promises 40" in printed
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert len(list(video)) == frames == len(lines(tmp_path / "out/clip.mp4.jsonl"))


def test_a_video_that_does_not_open_leaves_the_pictures(fake_variant: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("no video")
    images, video = [str(photo(tmp_path / "a.png"))], str(tmp_path / "clip.mp4")
    outcome, printed = run(fake_variant, tmp_path / "out", images=images, video=video, prompts=["cat"])
    assert (frames_of(outcome), outcome.exit_code) == ({"images": 1}, 1)
    assert "cannot be opened as a video" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "images.jsonl", "summary.json"]
    with pytest.raises(SourceError, match="cannot be opened as a video"):
        run(fake_variant, tmp_path / "out", video=video, prompts=["cat"])


def test_nothing_of_the_users_is_overwritten(fake_variant: Path, tmp_path: Path) -> None:
    picture = photo(tmp_path / "out/images/a.png")
    before = picture.read_bytes()
    with pytest.raises(OutputError, match="would be overwritten"):
        run(fake_variant, tmp_path / "out", images=[str(picture)], prompts=["cat"])
    video = clip(tmp_path / "clip.mp4")
    with pytest.raises(OutputError, match="would be overwritten"):
        run(fake_variant, tmp_path, video=str(video), prompts=["cat"])
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": ["a.png"]}, PromptError, "no classes are given"),
        ({"prompts": ["cat"]}, SourceError, "no images are given"),
        ({"prompts": ["cat"], "images": ["none.png"]}, SourceError, r"none\.png does not exist"),
        ({"prompts": ["cat"], "video": "none.mp4"}, SourceError, r"none\.mp4 does not exist"),
        (
            {"prompts": ["cat"], "images": ["https://a.org/a.png"]},
            SourceError,
            "is an address, and only files are read",
        ),
        ({"prompts": ["cat"], "video": "https://a.org/a.mp4"}, SourceError, r"is an address.*\n.*stream --source"),
        ({"prompts": ["caf\udce9"], "images": ["a.png"]}, PromptError, "is not valid Unicode"),
        ({"boxes": ["nan,2,3,4"], "images": ["a.png"]}, PromptError, "is empty"),
        ({"boxes": ["1,2,3"], "images": ["a.png"]}, PromptError, "'1,2,3' is not a box"),
        ({"boxes": ["1,2,3,4:x"], "images": ["a.png"]}, PromptError, "is not a box"),
        ({"boxes": ["0.1,0.2,0.5,1"], "images": ["a.png"]}, PromptError, r"at most one pixel.*\n.*--relative-boxes"),
        ({"boxes": ["1,2,3,4"], "relative_boxes": True, "images": ["a.png"]}, PromptError, "not within 0 and 1"),
        ({"prompts": ["cat"], "bank": Path("a.npz"), "images": ["a.png"]}, PromptError, "given in several ways"),
        ({"project": Path("a.yaml"), "bank": Path("a.npz"), "images": ["a.png"]}, PromptError, "in several ways"),
    ],
)
def test_wrong_arguments_end_before_engines_are_loaded(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "no engines", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_wrong_engines(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not a folder"):
        run(tmp_path / "none", tmp_path / "out", images=[str(photo(tmp_path / "a.png"))], prompts=["cat"])
