from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnx.checker")

from sam3_runtime.core.errors import CalibrationError, RecordError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.graphs.read import read_graph
from sam3_runtime.quantize.calibration_cache import CalibratorRecord, failures, open_cache, parse_cache
from sam3_runtime.records.records import Preprocessing

CACHE = (
    b"TRT-8601-EntropyCalibration2\nimages: 3c010204\n(Unnamed Layer* 7) [Constant]_output: 3d000000\na: b: 3f800000\n"
)
TENSORRT = "8.6.1"


@pytest.fixture
def files(small_graph: Path) -> list[str]:
    """A cache for the small graph, and what it holds for."""
    cache, report = small_graph.with_name("r8_entropy.cache"), small_graph.with_name("r8_entropy.json")
    cache.write_bytes(CACHE)
    header, scales = parse_cache(CACHE)
    CalibratorRecord(
        key="",
        onnx_sha256=read_graph(small_graph).sha256,
        checkpoint_digest="c" * 64,
        preprocessing=Preprocessing(),
        frames=2,
        frames_asked=2,
        frames_sha256="f" * 64,
        algorithm="entropy",
        seconds=1.0,
        tensorrt=TENSORRT,
        batch=2,
        header=header,
        cache_sha256=sha256_of(cache),
        scales=scales,
        missing=("c",),
    ).sealed().write(report)
    return [str(cache), str(report)]


def record_of(files: list[str]) -> CalibratorRecord:
    return CalibratorRecord.read(Path(files[1]))


# The content of a cache -------------------------------------------------------------------------------------------


def test_scales_are_the_bits_of_floats() -> None:
    header, scales = parse_cache(CACHE)
    assert header == "TRT-8601-EntropyCalibration2"
    assert scales["images"] == pytest.approx(1 / 127, rel=1e-4)
    assert scales["(Unnamed Layer* 7) [Constant]_output"] == 0.03125
    assert scales["a: b"] == 1.0


def test_leading_zeros_may_be_left_out() -> None:
    assert parse_cache(b"TRT-100900-MinMaxCalibration\nsmall: 1\n")[1]["small"] == pytest.approx(1.4e-45, rel=0.1)


@pytest.mark.parametrize("data", [b"", b"images: 3c010204\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_cache(data: bytes) -> None:
    with pytest.raises(CalibrationError, match="begins with TRT"):
        parse_cache(data)


@pytest.mark.parametrize("line", ["images", "images: zebra", "images: 3c01020400"])
def test_a_damaged_line_is_shown(line: str) -> None:
    with pytest.raises(CalibrationError, match=line):
        parse_cache(f"TRT-8601-EntropyCalibration2\n{line}\n".encode())


def test_what_is_no_scale_is_told_with_the_likely_reason() -> None:
    data = CACHE + b"i: 7f800000\nz: 00000000\nn: 7fc00000\nm: ff800000\nzero: 7f800000\ntiny: 1\n"
    _, values = parse_cache(data)
    found = failures(values, {"zero", "images"})
    assert found.keys() == {"i", "z", "n", "m", "zero"}
    for name, reason in (
        ("i", "infinite"),
        ("z", "range of 0"),
        ("n", "NaN"),
        ("m", "below 0"),
        ("zero", "TensorRT reported"),
    ):
        assert reason in found[name]


def test_the_summary_says_what_is_missing_and_what_failed(files: list[str]) -> None:
    record = record_of(files)
    assert record.summary().splitlines() == [
        "3 tensors got a scale",
        "  1 without one (not in the cache: not measured): c",
    ]
    failed = {f"t{number}": "infinite" for number in range(10)} | {"z": "zeros"}
    lines = record.model_copy(update={"failed": failed, "missing": ()}).summary().splitlines()
    assert lines == [
        "3 tensors got a scale",
        "  10 without one (infinite): t0, t1, t2, t3, t4, t5, t6, t7 and 2 more",
        "  1 without one (zeros): z",
    ]


def test_a_report_from_before_failures_were_told_is_read(files: list[str], small_graph: Path) -> None:
    """In it, what is no scale stands among the scales."""
    report = Path(files[1])
    older = json.loads(report.read_text())
    del older["failed"]
    report.write_text(json.dumps(older | {"scales": older["scales"] | {"i": "Infinity"}}))
    assert record_of(files).scales["i"] == float("inf")
    assert open_cache(files, small_graph, TENSORRT) is not None


# What it holds for ------------------------------------------------------------------------------------------------


def test_the_key_follows_all_that_scales_depend_on(files: list[str]) -> None:
    record = record_of(files)
    changes = (
        {},
        {"frames_sha256": "0"},
        {"algorithm": "minmax"},
        {"percentile": 99.0},
        {"onnx_sha256": "0"},
        {"preprocessing": Preprocessing(mean=(0.0, 0.0, 0.0))},
        {"tensorrt": "8.6.2"},
        {"batch": 4},
    )
    assert len({record.model_copy(update=change).expected_key() for change in changes}) == len(changes)
    assert record.model_copy(update={"seconds": 9.0}).expected_key() == record.key


def test_a_cache_that_matches_is_used(files: list[str], small_graph: Path) -> None:
    found = open_cache(files, small_graph, TENSORRT)
    assert found is not None
    assert (found.path, found.algorithm, found.key) == (Path(files[0]), "entropy", record_of(files).key)


def test_a_build_without_a_cache_has_none(small_graph: Path) -> None:
    assert open_cache([], small_graph, TENSORRT) is None


def test_a_cache_of_other_frames_is_refused(files: list[str], small_graph: Path) -> None:
    Path(files[0]).write_bytes(CACHE.replace(b"3c010204", b"3c020408"))
    with pytest.raises(CalibrationError, match=r"is not the cache that .* describes.*other frames"):
        open_cache(files, small_graph, TENSORRT)


def test_a_cache_of_another_tensorrt_is_refused(files: list[str], small_graph: Path) -> None:
    with pytest.raises(CalibrationError, match=r"made by TensorRT 8\.6\.1, but 10\.9\.0 builds here"):
        open_cache(files, small_graph, "10.9.0")


def test_a_cache_of_another_graph_is_refused(files: list[str], small_graph: Path) -> None:
    record_of(files).model_copy(update={"onnx_sha256": "0" * 64}).sealed().write(Path(files[1]))
    with pytest.raises(CalibrationError, match="measured on another graph"):
        open_cache(files, small_graph, TENSORRT)


def test_an_edited_report_is_refused(files: list[str], small_graph: Path) -> None:
    record_of(files).model_copy(update={"batch": 8}).write(Path(files[1]))
    with pytest.raises(CalibrationError, match="was edited"):
        open_cache(files, small_graph, TENSORRT)


@pytest.mark.parametrize(("gone", "error"), [(0, CalibrationError), (1, RecordError)])
def test_one_file_without_the_other_is_refused(
    files: list[str], small_graph: Path, gone: int, error: type[Exception]
) -> None:
    Path(files[gone]).unlink()
    with pytest.raises(error, match="is missing"):
        open_cache(files, small_graph, TENSORRT)
