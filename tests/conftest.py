"""Fixtures that every folder of tests uses: the small checkpoint, and photographs that scikit-image ships."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def _write_checkpoint(folder: Path, *options: str) -> Path:
    command = [sys.executable, str(PROJECT / "demo/checkpoint.py"), str(folder), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's small SAM3, in the layout of ``Sam3Model``."""
    pytest.importorskip("transformers")
    return _write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sam3")


@pytest.fixture(scope="session")
def video_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as transformers' ``Sam3VideoModel`` saves them (facebook/sam3's layout), in several shards."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoint") / "sam3_video"
    return _write_checkpoint(folder, "--layout", "sam3_video", "--shards", "3")
