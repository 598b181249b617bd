"""What a run writes: in order, whole, and kept when something goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import OutputError
from sam3_runtime.core.files import temporary_name
from sam3_runtime.imaging.postprocess import rle_to_mask
from sam3_runtime.media import sinks
from sam3_runtime.media.sinks import fitted
from sam3_runtime.media.sources import load_image, read_video
from sam3_runtime.streams.cameras import Source, find_sources
from sam3_runtime.streams.flow import Result, stream
from sam3_runtime.streams.outputs import KINDS, Outputs, check_output
from tests.media.test_sources import VARIABLE, write_video
from tests.streaming import CLASSES, Listed, Seeing, camera, found, nothing, picture, threads_of_runs, within
from tests.videos import with_times, write_clip


def result(source: str, number: int, seconds: float | None = None, size: tuple[int, int] = (24, 32)) -> Result:
    image = picture(number * 10, size)
    seconds = number / 10 if seconds is None else seconds
    return Result(source, number, seconds, image, [found(image, 0), nothing(image, 1)], None, 0.01)


def write(folder: Path, sources: list[Source], results: list[Result], save: tuple[str, ...] = KINDS) -> Outputs:
    def work() -> Outputs:
        with Outputs(folder, sources, save, CLASSES, workers=4) as outputs:
            for one in results:
                outputs.put(one)
        return outputs

    return within(work)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames(path: Path) -> list[np.ndarray]:
    with read_video(path) as video:
        return list(video)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_everything_of_two_sources(tmp_path: Path) -> None:
    sources: list[Source] = [Listed("a", [picture(n * 10) for n in range(20)]), Listed("b", [picture(0, (30, 20))] * 3)]

    def work() -> Outputs:
        with Outputs(tmp_path, sources, KINDS, CLASSES) as outputs:
            for one in stream(Seeing(), sources, track=True):
                outputs.put(one)
        return outputs

    outputs = within(work)
    pictures = [f"a/{n:08d}.jpg" for n in range(20)] + [f"b/{n:08d}.jpg" for n in range(3)]
    assert names(tmp_path) == sorted([*pictures, "a.jsonl", "a.mp4", "b.jsonl", "b.mp4", "coco.json"])
    assert {path.name for path in outputs.written} == {"a.mp4", "a.jsonl", "a", "b.mp4", "b.jsonl", "b", "coco.json"}
    assert [(line["source"], line["frame"]) for line in lines(tmp_path / "a.jsonl")] == [("a", n) for n in range(20)]
    last = lines(tmp_path / "a.jsonl")[-1]
    assert (last["seconds"], last["width"], last["height"]) == (1.9, 32, 24)
    (detection,) = last["detections"]
    assert (detection["prompt"], detection["score"], detection["track"]) == ("cup", 1.0, 1)
    assert rle_to_mask(detection["mask"])[3:13, 2:12].all()
    shown = frames(tmp_path / "a.mp4")
    assert len(shown) == 20
    assert [int(image[20, 28, 0]) for image in shown] == pytest.approx([n * 10 for n in range(20)], abs=12)
    assert load_image(tmp_path / "b/00000002.jpg").shape == (30, 20, 3)
    assert threads_of_runs() == []


def test_nothing_found_is_written_too(tmp_path: Path) -> None:
    image = picture(5)
    none = Result("a", 0, 0.0, image, [nothing(image, 0), nothing(image, 1)], None, 0.0)
    write(tmp_path, [Listed("a", [])], [none])
    assert lines(tmp_path / "a.jsonl")[0]["detections"] == []
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []
    assert len(frames(tmp_path / "a.mp4")) == 1


def test_boxes_of_one_pixel_and_less(tmp_path: Path) -> None:
    image = picture(5)
    boxes = [(4, 4, 5, 5), (4, 4, 4, 4), (-9, -9, -8, -8), (31, 23, 32, 24)]
    results = [Result("a", n, n / 10, image, [found(image, 0, box)], None, 0.0) for n, box in enumerate(boxes)]
    write(tmp_path, [Listed("a", [])], results)
    areas = [int(rle_to_mask(line["detections"][0]["mask"]).sum()) for line in lines(tmp_path / "a.jsonl")]
    assert areas == [1, 0, 0, 1]


def test_without_frames_there_are_no_files(tmp_path: Path) -> None:
    outputs = write(tmp_path / "out", [Listed("a", [])], [], ("video", "jsonl"))
    assert (outputs.written, names(tmp_path)) == ([], [])


def test_frames_of_other_sizes_are_fitted_into_the_first(tmp_path: Path) -> None:
    results = [result("a", 0, size=(24, 32)), result("a", 1, size=(48, 16)), result("a", 2, size=(1, 1))]
    write(tmp_path, [Listed("a", [])], results, ("video",))
    assert [image.shape for image in frames(tmp_path / "a.mp4")] == [(24, 32, 3)] * 3
    assert fitted(picture(9, (48, 16)), (24, 32)).max(axis=(0, 2)).tolist() == [0] * 12 + [9] * 8 + [0] * 12


def test_a_live_video_keeps_its_pace_behind_dropped_frames(tmp_path: Path) -> None:
    """At 25 frames a second: frames that were dropped are filled in, and a long gap is shortened to two seconds."""
    cam = camera("cam", [])
    results = [result("cam", number, seconds) for number, seconds in ((0, 5.0), (3, 5.2), (9, 65.2), (10, 65.24))]
    write(tmp_path, [cam], results, ("video",))
    assert len(frames(tmp_path / "cam.mp4")) == 1 + 5 + 50 + 1


def test_lines_of_a_live_source_are_there_while_it_runs(tmp_path: Path) -> None:
    """Those of a file appear once they are whole."""
    sources = [camera("cam", []), Listed("a", [])]
    cam = tmp_path / "cam.jsonl"

    def work() -> None:
        with Outputs(tmp_path, sources, ("jsonl",), CLASSES) as outputs:
            for number in range(3):
                for source in ("cam", "a"):
                    outputs.put(result(source, number))
            while not cam.exists() or len(lines(cam)) < 3:
                time.sleep(0.01)
            assert not (tmp_path / "a.jsonl").exists()

    within(work)
    assert [line["frame"] for line in lines(tmp_path / "a.jsonl")] == [0, 1, 2]


def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "a").mkdir()
    video, image = (
        Path(str(temporary_name(tmp_path / name)).replace(f"-{os.getpid()}.", f"-{gone.pid}."))
        for name in ("a.mp4", "a/00000000.jpg")
    )
    video.mkdir()
    (video / "video.mp4").touch()
    image.touch()
    of_another_run = temporary_name(tmp_path / "b.jsonl")
    of_another_run.touch()
    write(tmp_path, [Listed("a", [])], [])
    assert names(tmp_path) == [of_another_run.name, "coco.json"]


def test_each_frame_of_a_file_is_there_once(tmp_path: Path) -> None:
    write(tmp_path, [Listed("a", [], fps=29.97)], [result("a", n, n / 29.97) for n in range(40)], ("video",))
    assert len(frames(tmp_path / "a.mp4")) == 40


def test_a_file_of_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    path = with_times(write_clip(tmp_path / "clip.mp4", 10), VARIABLE)
    sources = find_sources([path])

    def work() -> Outputs:
        with Outputs(tmp_path / "out", sources, KINDS, CLASSES) as outputs:
            for one in stream(Seeing(), sources):
                outputs.put(one)
        return outputs

    assert within(work).changes == []
    assert [line["seconds"] for line in lines(tmp_path / "out/clip.jsonl")] == [time / 1e3 for time in VARIABLE]
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [one["seconds"] for one in coco["images"]] == [time / 1e3 for time in VARIABLE]
    with read_video(tmp_path / "out/clip.mp4") as video:
        found = [(frame.seconds, int(frame.image[40, 50, 0])) for frame in video.numbered()]
    begins = [0.0, *(later[0] for earlier, later in pairwise(found) if later[1] - earlier[1] > 3)]
    assert begins == pytest.approx([time / 1e3 for time in VARIABLE], abs=0.02)
    assert found[-1][0] == pytest.approx(10, abs=0.02)


def test_a_video_that_could_not_be_kept_as_it_is(tmp_path: Path) -> None:
    outputs = write(tmp_path, [Listed("a", [])], [result("a", 0, size=(25, 33))], ("video",))
    assert outputs.changes == ["a.mp4 is 34 x 26 pixels, the nearest size for MP4; its frames are 33 x 25"]


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        check_output(tmp_path / "file/out", [])


def test_no_source_is_overwritten(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 2).rename(tmp_path / "clip.mp4")
    for specs in ([video], [result_picture(tmp_path / "shop/00000000.jpg").parent]):
        sources = find_sources(specs)
        with pytest.raises(OutputError, match="would be overwritten"):
            check_output(tmp_path, sources)
        check_output(tmp_path / "out", sources)


def result_picture(path: Path) -> Path:
    sinks.write_image(path, picture(1))
    return path


def test_a_full_disk_is_one_message_and_what_was_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(str(folder))
        return SimpleNamespace(free=1 << 30 if len(asked) <= 12 else 1000)

    monkeypatch.setattr(sinks.shutil, "disk_usage", usage)
    sources: list[Source] = [Listed("a", [picture(n) for n in range(100)])]
    taken = []

    def work() -> None:
        with Outputs(tmp_path, sources, ("video", "jsonl"), CLASSES) as outputs:
            for one in stream(Seeing(), sources):
                taken.append(one)
                outputs.put(one)

    with pytest.raises(OutputError, match=r"a\.mp4: the disk is full but for 0 KiB \(after 12 frames\)"):
        within(work)
    assert len(taken) < 100
    assert len(frames(tmp_path / "a.mp4")) == 12
    assert len(lines(tmp_path / "a.jsonl")) == 12
    assert names(tmp_path) == ["a.jsonl", "a.mp4"]
    assert threads_of_runs() == []


def test_a_disk_that_is_really_full(make_disk: Callable[[int], Path]) -> None:
    disk = make_disk(4000)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    sources: list[Source] = [Listed("a", [noise] * 2000), Listed("b", [picture(0)] * 2000)]

    def work() -> None:
        with Outputs(disk, sources, KINDS, CLASSES) as outputs:
            for one in stream(Seeing(), sources):
                outputs.put(one)

    with pytest.raises(OutputError, match=r"cannot write .*(the disk is full|No space left)"):
        within(work)
    count = len(frames(disk / "a.mp4"))
    assert 0 < count < 2000
    assert not list(disk.glob(".*"))
    assert threads_of_runs() == []


def test_what_fails_while_drawing_is_raised(tmp_path: Path) -> None:
    sources: list[Source] = [Listed("a", [])]
    broken = Result("a", 0, 0.0, picture(0), [found(picture(0), 0)], [np.zeros(0, np.int64)], 0.0)
    with pytest.raises(IndexError):
        write(tmp_path, sources, [broken], ("video",))
    with pytest.raises(IndexError):
        write(tmp_path, sources, [broken] * 200, ("video",))
    assert threads_of_runs() == []


def test_a_slow_disk_makes_who_brings_results_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most ``capacity`` results are held."""
    from threading import Event

    go, put = Event(), []
    write_line = sinks.JsonLines.write
    monkeypatch.setattr(sinks.JsonLines, "write", lambda self, line: (go.wait(60), write_line(self, line))[1])
    sources: list[Source] = [Listed("a", [])]

    def work() -> Outputs:
        with Outputs(tmp_path, sources, ("jsonl",), CLASSES, workers=2) as outputs:
            for number in range(40):
                if number == outputs.capacity:
                    go.set()
                outputs.put(result("a", number))
                put.append(number)
        return outputs

    assert within(work).capacity == 4
    assert [line["frame"] for line in lines(tmp_path / "a.jsonl")] == list(range(40))
