"""The recipe of a build, as the command line that the release understands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnx.checker")
pytest.importorskip("filelock")
from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Task
from sam3_runtime.engines.building.tensorrt_recipe import command_line, make_recipe
from tests.engines.building.conftest import QUERIES
from tests.engines.building.test_tensorrt import make_task


def arguments(task: Task, version: str) -> dict[str, str]:
    said = command_line(make_recipe(task, version), task, task.engine)
    return dict(argument.partition("=")[::2] for argument in said)


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "10.9.0", "11.1"])
def test_flags_are_those_of_the_release(version: str, typed_graphs: dict[str, Path], tmp_path: Path) -> None:
    given = arguments(make_task(typed_graphs[f"decoder_q{QUERIES}"], tmp_path, version), version)
    assert ("--fp16" in given) == (version == "8.6.1")
    assert ("--stronglyTyped" in given) == (version in ("9.3.0", "10.9.0"))
    assert ("--layerPrecisions" in given) == (version == "8.6.1")
    assert given["--minShapes"].split(",")[0].startswith("fpn_feat_0:1x")
    assert "fpn_pos_2" not in given["--optShapes"]  # trtexec refuses shapes of what has one alone
    assert "prompt_mask:4x60" in given["--maxShapes"]
    assert "--inputIOFormats" not in given


def test_names_survive_in_lists_of_names(typed_graphs: dict[str, Path], tmp_path: Path) -> None:
    """trtexec splits layer precisions at commas and colons."""
    for name in ("geometry-encoder", f"decoder_q{QUERIES}"):
        given = arguments(make_task(typed_graphs[name], tmp_path, "8.6.1"), "8.6.1")
        pairs = [pair.split(":") for pair in given["--layerPrecisions"].split(",")]
        assert all(len(pair) == 2 and pair[1] == "fp32" for pair in pairs)
        assert given["--layerOutputTypes"] == given["--layerPrecisions"]


def test_a_float32_graph_in_float16_says_the_types_of_its_ends(typed_graphs: dict[str, Path], tmp_path: Path) -> None:
    task = make_task(typed_graphs["vision-encoder"], tmp_path, "8.6.1")
    task = replace(task, graph=replace(task.graph, precision="fp32", quantize="int8"))
    given = arguments(task, "8.6.1")
    assert given["--inputIOFormats"] == "fp16:chw"
    assert given["--outputIOFormats"] == ",".join(["fp16:chw"] * 4)
    assert {"--fp16", "--int8"} <= set(given)


def test_what_a_release_cannot_is_an_error(typed_graphs: dict[str, Path], tmp_path: Path) -> None:
    task = make_task(typed_graphs["vision-encoder"], tmp_path, "8.6.1")
    with pytest.raises(BuildError, match="older than this project builds for"):
        make_recipe(task, "8.5.3")
    with pytest.raises(BuildError, match="builds no FP8"):
        make_recipe(replace(task, graph=replace(task.graph, quantize="fp8")), "8.6.1")
