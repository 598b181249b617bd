"""The examples run as their first lines say, on the fake backend, and find what it finds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from sam3_runtime.families.sam3.banks import Bank
from sam3_runtime.families.sam3.projects import read_project
from sam3_runtime.media.sinks import VideoSink
from sam3_runtime.media.sources import load_image
from tests.cli.test_infer import clip
from tests.projects import write_photo

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_classes_of_a_project(fake_variant: Path, tmp_path: Path) -> None:
    shutil.copyfile(EXAMPLES / "shop.yaml", tmp_path / "shop.yaml")
    for seed in (1, 2):
        write_photo(tmp_path / f"photos/{seed}.png", seed)
    for _ in range(2):  # the second run reads the bank
        said = run("detect_classes.py", "shop.yaml", str(fake_variant), "photos", cwd=tmp_path)
        assert "text-encoder and geometry-encoder stay closed" in said
        for picture in ("1.png", "2.png"):
            for name, threshold in (("person", 0.4), ("cup", 0.4), ("spoon", 0.5)):
                assert f"{picture}: " in said
                assert f" {name} above {threshold}" in said
        assert load_image(tmp_path / "found/1.png").shape == (40, 60, 3)
        assert (tmp_path / "shop.npz").exists()


def test_what_a_box_shows(fake_variant: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "shelf.png")
    write_photo(tmp_path / "photos/1.png", 1)
    said = run("find_what_a_box_shows.py", str(fake_variant), "shelf.png", "5,5,20,25", "photos", cwd=tmp_path)
    count = int(said.partition("1.png: ")[2].split()[0])
    assert count > 3
    assert said.count(" at ") == count


def test_what_comes_by_in_a_video(fake_variant: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    with VideoSink(tmp_path / "still.mp4", 10) as sink:
        for _ in range(5):
            sink.write(image)
    said = run("count_things.py", str(fake_variant), "still.mp4", "person", "cup", cwd=tmp_path).splitlines()
    counts = {name: int(count) for name, count in (line.split(": ") for line in said if ": " in line)}
    assert list(counts) == ["person", "cup"]
    tracks = [line.split() for line in said if line.startswith("  #")]
    assert len({one for one, *_ in tracks}) == len(tracks) == sum(counts.values()) > 0
    assert {float(seconds) for _, _, seconds, _ in tracks} <= {0.1, 0.2, 0.3, 0.4}


def test_what_passes_is_counted_once(fake_variant: Path, shop_bank: Bank, tmp_path: Path) -> None:
    shop_bank.save(tmp_path / "shop.npz")
    clip(tmp_path / "clip.mp4", 8)
    said = run("count_tracks.py", "shop.npz", str(fake_variant), "clip.mp4", cwd=tmp_path).splitlines()
    assert [line.split()[::2] for line in said] == [["clip:", name] for name in ("person", "mug", "logo")]
    assert all(int(line.split()[1]) >= 0 for line in said)


def test_the_projects_of_the_examples_are_right() -> None:
    paths = list(EXAMPLES.glob("*.yaml"))
    assert paths
    for path in paths:
        assert read_project(path).settings.classes
