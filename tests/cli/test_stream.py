"""The command, on the fake backend: several sources in, everything out; and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sam3_runtime.cli.stream import BOX_ON_VIDEO, StreamOutcome, classes_of, run_stream
from sam3_runtime.core.errors import OutputError, RecordError, SourceError
from sam3_runtime.families.sam3.banks import Bank
from sam3_runtime.media.sources import read_video
from sam3_runtime.streams.flow import Result
from sam3_runtime.streams.readers import LiveSettings
from tests.cli.test_infer import NO_FONT_HAS, clip, lines
from tests.cli.test_main import run
from tests.media.test_sources import cut, not_utf8, odd_name, write
from tests.projects import WORDS, WriteProject
from tests.streaming import Capture, camera, picture, threads_of_runs, within
from tests.streams.test_cameras import noisy_video


@pytest.fixture
def bank(shop_bank: Bank, tmp_path: Path) -> Path:
    shop_bank.save(tmp_path / "shop.npz")
    return tmp_path / "shop.npz"


def streamed(engines: Path, classes: Path, sources: Any, output: Path, **options: Any) -> tuple[StreamOutcome, str]:
    printed = io.StringIO()
    console = Console(file=printed, soft_wrap=True)
    outcome = within(lambda: run_stream(engines, classes, sources, output=output, console=console, **options))
    assert threads_of_runs() == []
    return outcome, printed.getvalue()


def test_a_name_that_no_font_has_is_said_where_it_is_drawn(fake_variant: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(f"classes: [{{words: cup {NO_FONT_HAS}}}]", encoding="utf-8")
    said = {
        save: streamed(
            fake_variant, tmp_path / "shop.yaml", [clip(tmp_path / "clip.mp4")], tmp_path / save, save=[save]
        )[1]
        for save in ("video", "jsonl")
    }
    assert said["video"].count(f"no font here has {NO_FONT_HAS}") == 1
    assert "font" not in said["jsonl"]


def test_sources_of_every_kind_at_once(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"frames/{number}.png", (number * 40, 0, 0), size=(30 + number, 40))
    cam = camera("cam", [Capture([picture(9), picture(10)])])
    seen: list[Result] = []
    outcome, _ = streamed(
        fake_variant, bank, [clip(tmp_path / "clip.mp4"), tmp_path / "frames", cam], tmp_path / "out",
        save=("video", "images", "jsonl", "coco"), track=True, callback=seen.append, live=LiveSettings(attempts=1),
    )  # fmt: skip
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    by_name = {one["source"]: one for one in summary["sources"]}
    assert (by_name["clip"]["frames"], by_name["frames"]["frames"]) == (10, 5)
    assert by_name["cam"]["frames"] + by_name["cam"]["dropped"] == 2
    assert len(seen) == summary["total"]["frames"]
    assert summary["total"]["latency_p95"] > 0
    for name in ("clip", "frames", "cam"):
        assert len(lines(tmp_path / f"out/{name}.jsonl")) == by_name[name]["frames"]
        assert (tmp_path / f"out/{name}.mp4").is_file()
    assert all("track" in found for line in lines(tmp_path / "out/clip.jsonl") for found in line["detections"])
    assert outcome.exit_code == 1, "the camera was given up"
    assert "cam is given up after 1 failure in a row" in by_name["cam"]["problems"][0]
    assert outcome.lines()[0].startswith(f"found in {summary['total']['frames']} images: ")
    assert outcome.lines()[1].startswith("wrote clip.mp4, clip.jsonl, clip, frames.mp4")
    assert outcome.lines()[1].endswith(f"coco.json, summary.json in {tmp_path / 'out'}")
    assert outcome.lines()[-1] == "incomplete, see above: cam"


def test_a_project_file_and_eight_cameras(fake_variant: Path, write_project: WriteProject, tmp_path: Path) -> None:
    write_project(WORDS)
    videos = [clip(tmp_path / f"{name}.mp4", 6) for name in "abc"]
    outcome, printed = streamed(
        fake_variant, tmp_path / "shop.yaml", videos, tmp_path / "out", cameras=8, frames=4, save=("jsonl",)
    )
    assert [one.frames for one in outcome.summary.sources] == [4] * 8
    assert (outcome.exit_code, printed) == (0, "")
    assert lines(tmp_path / "out/a.jsonl") == [{**line, "source": "a"} for line in lines(tmp_path / "out/a-3.jsonl")]
    names = ["a", "b", "c", "a-2", "b-2", "c-2", "a-3", "b-3"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*(f"{name}.jsonl" for name in names), "summary.json"]
    )


def test_nothing_is_saved_where_nothing_is_asked(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    outcome, _ = streamed(fake_variant, bank, [clip(tmp_path / "clip.mp4", 3)], tmp_path / "out", save=())
    assert (outcome.summary.total.frames, outcome.written) == (3, [])
    assert not (tmp_path / "out").exists()


def test_what_is_damaged_is_told_and_the_rest_is_done(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    video = noisy_video(tmp_path / "bad.mp4")
    data = bytearray(video.read_bytes())
    data[len(data) // 2 : len(data) // 2 + len(data) // 15] = bytes(len(data) // 15)
    video.write_bytes(data)
    for number in range(4):
        write(tmp_path / f"frames/{number}.png", (number * 40, 0, 0))
    cut(tmp_path / "frames/1.png", 0.5)
    outcome, printed = streamed(
        fake_variant, bank, [video, tmp_path / "frames", clip(tmp_path / "good.mp4")], tmp_path / "out"
    )
    assert (outcome.exit_code, outcome.summary.total.failures) == (1, 2)
    assert "text-encoder and geometry-encoder stay closed" in printed, "of a bank"
    assert "is damaged" in printed
    assert "1.png is not a readable image" in printed
    assert [line["frame"] for line in lines(tmp_path / "out/frames.jsonl")] == [0, 2, 3]
    assert len(lines(tmp_path / "out/good.jsonl")) == 10
    kept = [line["frame"] for line in lines(tmp_path / "out/bad.jsonl")]
    with read_video(tmp_path / "out/bad.mp4") as back:
        assert len(list(back)) == kept[-1] + 1 == 40, "the video keeps its pace"
    assert 30 <= len(kept) < 40


@not_utf8
def test_names_that_are_not_utf8_lose_nothing(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    for name in (b"caf\xe9.png", b"b.png"):
        write(tmp_path / "a.png").rename(odd_name(write(folder / "c.png").parent, name))
    clip(tmp_path / "clip.mp4", 6).rename(odd_name(folder, b"caf\xe9.mp4"))
    odd_name(folder, b"bad\xe9.png").write_bytes(b"no picture")
    outcome, _ = streamed(
        fake_variant, bank, [folder], odd_name(tmp_path, b"\xfeout"), save=("video", "images", "jsonl", "coco")
    )
    output = odd_name(tmp_path, b"\xfeout")
    assert sorted(path.name for path in output.iterdir()) == [
        "caf%E9", "caf%E9.jsonl", "caf%E9.mp4", "coco.json", "given", "given.jsonl", "given.mp4", "summary.json"
    ]  # fmt: skip
    assert (len(lines(output / "given.jsonl")), len(lines(output / "caf%E9.jsonl"))) == (3, 6)
    summary = json.loads((output / "summary.json").read_bytes().decode("utf-8"))
    assert "bad%E9.png is not a readable image" in summary["sources"][0]["problems"][0]
    assert outcome.lines()[-1] == "incomplete, see above: given"


def test_what_could_not_be_kept_is_said_before_what_failed(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    write(tmp_path / "frames/0.png", size=(31, 41))
    (tmp_path / "frames/1.png").write_bytes(b"no picture")
    outcome, _ = streamed(fake_variant, bank, [tmp_path / "frames"], tmp_path / "out")
    assert outcome.lines()[-2:] == [
        "frames.mp4 is 42 x 32 pixels, the nearest size for MP4; its frames are 41 x 31",
        "incomplete, see above: frames",
    ]
    assert outcome.exit_code == 1


@pytest.mark.parametrize("wrong", ["source", "output", "bank"])
def test_wrong_names_are_told_before_an_engine_is_opened(
    wrong: str, fake_variant: Path, bank: Path, tmp_path: Path
) -> None:
    (fake_variant / "decoder.engine").write_bytes(b"would be refused")
    (tmp_path / "file").write_text("a file")
    source = tmp_path / "none.mp4" if wrong == "source" else clip(tmp_path / "clip.mp4")
    output = tmp_path / "file/out" if wrong == "output" else tmp_path / "out"
    classes = tmp_path / "none.npz" if wrong == "bank" else bank
    kind = {"source": SourceError, "output": OutputError, "bank": RecordError}[wrong]
    with pytest.raises(kind, match=r"none|cannot be written"):
        streamed(fake_variant, classes, [source], output)


def test_prompts_boxes_and_a_score(fake_variant: Path, tmp_path: Path) -> None:
    """The words and example boxes of the command line, as `infer` takes them."""
    video, images = clip(tmp_path / "clip.mp4", 4), write(tmp_path / "frames/0.png", size=(48, 64)).parent
    classes = classes_of(prompts=["cat"], boxes=["0.1,0.25,0.5,0.5"], relative_boxes=True)
    outcome, printed = streamed(fake_variant, classes, [video, images], tmp_path / "out", save=["jsonl"], conf=0.6)
    assert list(outcome.summary.found) == ["cat", "visual"]
    assert printed.strip() == BOX_ON_VIDEO
    scores = [one["score"] for line in lines(tmp_path / "out/clip.jsonl") for one in line["detections"]]
    assert len(scores) > 4
    assert min(scores) > 0.6
    assert streamed(fake_variant, classes, [images], tmp_path / "two", save=["jsonl"])[1] == "", "on images it is one"
    again = tmp_path / "again"
    streamed(fake_variant, classes_of(prompts=["cat"]), [video], again, save=["jsonl"], conf=0.6)
    of_both = [line["detections"] for line in lines(tmp_path / "out/clip.jsonl")]
    of_cats = [[one for one in found if one["prompt"] == "cat"] for found in of_both]
    assert [line["detections"] for line in lines(again / "clip.jsonl")] == of_cats


def test_the_command_line(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    source = str(clip(tmp_path / "clip.mp4"))
    options = ["--engines", str(fake_variant), "--source", source, "--output", str(tmp_path / "out")]
    done = run("stream", "--bank", str(bank), *options, "--save", "jsonl", "--frames", "4")
    assert done.returncode == 0, done.stderr
    assert "latency p50" in done.stdout
    assert len(lines(tmp_path / "out/clip.jsonl")) == 4
    neither = run("stream", *options)
    assert (neither.returncode, "no classes are given" in neither.stderr) == (1, True)
    wrong = run("stream", "--prompt", "cat", *options, "--save", "video, gif,")
    assert (wrong.returncode, "'gif' is not a kind of output" in wrong.stderr) == (1, True)
    by_words = run("stream", "--prompt", "cat", "--box", "6,10,30,20", *options, "--save", "jsonl", "--frames", "2")
    assert by_words.returncode == 0, by_words.stderr
    assert "x cat, " in by_words.stdout


# --- signals ----------------------------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
from pathlib import Path
from sam3_runtime.cli import stream as cli_stream
engines, bank, source, output = sys.argv[1:]
def slow(result):
    print(result.number, flush=True)
    time.sleep(PAUSE)
outcome = cli_stream.run_stream(Path(engines), Path(bank), [source], output=Path(output), callback=slow)
print(outcome.table().row_count, flush=True)
sys.exit(outcome.exit_code)
"""


def start(pause: float, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOWLY.replace("PAUSE", str(pause)), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be sent Ctrl-C alone on Windows")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_what_is_looked_at_and_closes_all_files(
    sent: signal.Signals, fake_variant: Path, bank: Path, tmp_path: Path
) -> None:
    process = start(0.02, fake_variant, bank, clip(tmp_path / "clip.mp4", 2000), tmp_path / "out")
    assert process.stdout is not None
    for _ in range(6):
        process.stdout.readline()
    process.send_signal(sent)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + sent, errors
    assert "stopping: the current batch is finished first" in errors
    shown = [int(line) for line in output.split()[:-1]]
    written = lines(tmp_path / "out/clip.jsonl")
    assert [line["frame"] for line in written] == list(range(shown[-1] + 1))
    assert 6 <= len(written) < 2000
    with read_video(tmp_path / "out/clip.mp4") as video:
        assert len(list(video)) == len(written)
    assert json.loads((tmp_path / "out/summary.json").read_text())["total"]["frames"] == len(written)
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be sent Ctrl-C alone on Windows")
def test_the_second_ctrl_c_ends_at_once(fake_variant: Path, bank: Path, tmp_path: Path) -> None:
    process = start(1000, fake_variant, bank, clip(tmp_path / "clip.mp4"), tmp_path / "out")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "it waits for what is being looked at"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
