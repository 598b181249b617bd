"""What somebody sends back: verdict and measurement in one file, without a trace of the machine's names."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.measure.share import measure
from sam3_runtime.records.records import Verdict
from tests.workflow.conftest import WorkFolder

NAME = "b2_q50_r224"


def test_one_json_has_the_verdict_and_the_measurement(built: WorkFolder, tmp_path: Path) -> None:
    directory = built.path / "engines" / NAME
    (directory / "verify.json").unlink()
    shared = measure(directory, [], ["cup"], [1])
    shared.write(tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text()
    found = json.loads(text)
    assert found["status"] == "passed"
    assert found["checks"]
    assert found["bench"]["cameras"][0]["end_to_end"]["n"] > 0
    assert found["predicted"] is None
    assert Verdict.read(directory / "verify.json").status == "passed"
    for private in (str(built.path), socket.gethostname() + ".", f"/{getpass.getuser()}/"):
        assert private not in text


def test_what_does_not_run_is_not_measured(built: WorkFolder) -> None:
    (built.path / f"engines/{NAME}/decoder.engine").unlink()
    with pytest.raises(EngineError, match="does not run here"):
        measure(built.path / "engines" / NAME, [], ["cup"], [1])
