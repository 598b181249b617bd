"""What is seen while `make` installs: a line for each large file, and not the hundreds of lines that pip has."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.conftest import PROJECT

PIP = """\
Collecting torch>=2.8 (from sam3-runtime==0.1.0)
  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (31 kB)
Requirement already satisfied: numpy>=1.26 in ./.venv/lib/python3.11/site-packages (2.4.6)
  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (554.6 MB)
Downloading nvidia_cudnn_cu13-9.24.0.43-py3-none-manylinux_2_27_x86_64.whl (1.1 GB)
  Using cached onnx-1.22.0-cp311-cp311-manylinux_2_28_x86_64.whl (8.9 MB)
  Downloading yte-1.9.4-py3-none-any.whl (10 kB)
Installing collected packages: zipp, torch, nvidia-cudnn-cu13
Successfully installed torch-2.14.1 zipp-3.23.0
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="without make")
def test_progress_is_a_line_for_each_large_file() -> None:
    command = ["make", "-s", "--eval", "shown: ; @$(SHOWN)", "shown"]
    run = subprocess.run(command, cwd=PROJECT, input=PIP, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "  torch: 554.6 MB",
        "  nvidia_cudnn_cu13: 1.1 GB",
        "  onnx: 8.9 MB",
        "  unpacking all of them: one or two minutes the first time",
    ]
