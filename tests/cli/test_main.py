"""The command line: one message and exit code 1 for a user's mistake, text for people, JSON for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam3_runtime.families.sam3.parts import PART_NAMES
from tests.engine_records import write_engine
from tests.records.test_records import config


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sam3_runtime.cli.main import main; main()", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


def write_variant(engines: Path, **changes: object) -> Path:
    found = config(**changes)
    for part in PART_NAMES:
        queries = found.axes["queries"] if part == "decoder" else 50
        write_engine(engines / found.variant, part, queries=queries)
    found.write(engines / found.variant / "config.json")
    return engines / found.variant


def test_a_mistake_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    for arguments in (("info", str(tmp_path / "nothing")), ("verify", str(tmp_path)), ("unlock", "-d", str(tmp_path))):
        done = run(*arguments)
        assert done.returncode == 1, arguments
        assert done.stderr.startswith("Error: ")
        assert "Hint: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_no_character_ends_a_command_that_has_done_its_work(fake_variant: Path, tmp_path: Path, encoding: str) -> None:
    """As on Windows, where output goes into a file."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "汽车.png").write_bytes(b"no picture")
    done = run(
        "infer", "--engines", str(fake_variant), "--images", str(tmp_path), "--prompt", "汽车",
        "--output", str(tmp_path / "out"), PYTHONIOENCODING=encoding,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    first, *_, last = done.stdout.splitlines()
    word = "汽车" if encoding == "utf-8" else r"\u6c7d\u8f66"
    assert first.startswith("found in 1 image: ")
    assert first.endswith(f" {word}")
    assert f"{word}.png is not a readable image" in done.stderr
    assert (done.returncode, last) == (1, "incomplete, see above: images")
    assert (tmp_path / "out/images.jsonl").is_file()


def test_info_of_a_variant(tmp_path: Path) -> None:
    variant = write_variant(tmp_path)
    said = run("info", str(variant))
    assert "b8_q50_r672" in said.stdout
    assert "unverified" in said.stdout
    found = json.loads(run("info", "--json", str(variant)).stdout)
    assert found["config"]["resolution"] == 672
    assert set(found["engines"]) == set(PART_NAMES)


def test_the_overview_says_what_sharing_saved(tmp_path: Path) -> None:
    write_variant(tmp_path)
    write_variant(tmp_path, variant="b8_q200_r672", queries=200)
    found = json.loads(run("info", "--json", str(tmp_path)).stdout)
    assert [variant["variant"] for variant in found["variants"]] == ["b8_q200_r672", "b8_q50_r672"]
    assert (found["distinct_engines"], found["stored_mib"], found["saved_by_sharing_mib"]) == (5, 5.0, 3.0)


def test_a_damaged_variant_does_not_hide_the_others(tmp_path: Path) -> None:
    write_variant(tmp_path)
    other = write_variant(tmp_path, variant="b8_q200_r672", queries=200)
    (other / "config.json").write_text("{}")
    said = run("info", str(tmp_path))
    assert said.returncode == 0
    assert "damaged" in said.stdout
    assert "b8_q50_r672" in said.stdout


def test_the_schema_is_printed() -> None:
    assert json.loads(run("schema").stdout)["title"] == "VariantsFile"
