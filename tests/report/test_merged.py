"""Merged tables: what can be compared, what is rejected, and what a table shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sam3_runtime.cli.main import app
from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.wording import percent
from sam3_runtime.records.measurements import Measured
from sam3_runtime.records.records import Record, Toolchain
from sam3_runtime.report.merged import merge, write_merged
from sam3_runtime.report.pages import merged_markdown
from tests.measured import baseline, measured


def table(folder: Path, *variants: Measured, name: str = "table.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"variants": [one.model_dump(mode="json") for one in variants]}))
    return folder / name


def saved(path: Path, record: Record) -> Path:
    record.write(path)
    return path


def test_runs_and_baselines_in_one_table(tmp_path: Path) -> None:
    files = [
        table(tmp_path / "one", measured("b8_q50_r672", vision=3.0, image=10.0)),
        table(tmp_path / "two", measured("b8_q50_r1008", vision=8.0, image=30.0)),
        saved(tmp_path / "r672.json", baseline(672)),
    ]
    write_merged(files, tmp_path / "results/h200")
    text = (tmp_path / "results/h200.md").read_text()
    found = json.loads((tmp_path / "results/h200.json").read_text())
    small, large = found["rows"]
    assert small["beside"][1] == {
        "images": 8,
        "vision ms": "3.00",
        "vision: ×transformers": "3.00",
        "vision: ×torch.compile": "2.00",
        "end to end ms": "10.00",
        "end to end: ×transformers": "2.00",
        "end to end: ×torch.compile": "1.50",
    }
    assert large["beside"] == []
    assert [(line["cameras"], line["end to end"], line["round"]) for line in small["speed"]] == [
        (1, "10.00", "10.00"),
        (8, "10.00", "80.00"),
    ]
    assert small["parts"][0] == {
        "vision, 1 at once": "3.00",
        "vision, 8 at once": "3.00",
        "decoder, P=8 N=1": "2.00",
        "decoder, P=8 N=8": "16.00",
    }
    assert small["graphs"][0]["round of 8"] == "100.00 → 80.00 (+20 %)"
    assert small["memory"] == [{"loaded": 2400.0, "ready": 1900.0, "peak": 2000.0, "measured as": "process"}]
    for part in ("GPU: NVIDIA H200", "driver: 580.1", "tensorrt 8.6.1", "SM 1980 MHz", "random (222222222222)"):
        assert part in text
    assert "answers are not" in text


def test_a_joined_table_can_be_joined_again(tmp_path: Path) -> None:
    first = [table(tmp_path, measured("b8_q50_r672")), saved(tmp_path / "r672.json", baseline(672))]
    once = write_merged(first, tmp_path / "once")
    more = table(tmp_path / "more", measured("b8_q50_r560"))
    assert merge([tmp_path / "once.json", more])["rows"][0] == once["rows"][0]


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("GPUs", {"device": "NVIDIA L4"}),
        ("backends", {"toolchain": Toolchain(backend="tensorrt", version="10.9.0")}),
        ("checkpoints", {"checkpoint": "facebook/sam3", "checkpoint_digest": "9" * 64}),
    ],
)
def test_what_was_measured_on_different_things_is_refused(tmp_path: Path, what: str, changes: dict[str, Any]) -> None:
    one = table(tmp_path / "one", measured("b8_q50_r672"))
    other = table(tmp_path / "other", measured("b8_q50_r560", **changes))
    with pytest.raises(RecordError, match=f"different {what}") as caught:
        merge([one, other])
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)


def test_a_baseline_of_another_gpu_is_refused(tmp_path: Path) -> None:
    files = [table(tmp_path, measured()), saved(tmp_path / "r672.json", baseline(device="NVIDIA L4"))]
    with pytest.raises(RecordError, match="different GPUs"):
        merge(files)


def test_a_variant_twice_is_refused_unless_its_method_differs(tmp_path: Path) -> None:
    plain, qdq = measured("b8_q50_r672"), measured("b8_q50_r672_int8")
    calibrated = measured("b8_q50_r672_int8", vision_record={"graph": "vision-encoder_fp32"})
    one = table(tmp_path / "one", plain, qdq)
    both = merge([one, table(tmp_path / "two", calibrated)])
    assert [row["variant"] for row in both["rows"]][1:] == ["b8_q50_r672_int8", "b8_q50_r672_int8 (calibrator)"]
    assert [row["accuracy"][0].get("method") for row in both["rows"]] == [None, "qdq", "calibrator"]
    with pytest.raises(RecordError, match="b8_q50_r672_int8 is in"):
        merge([one, table(tmp_path / "three", qdq)])


def test_a_measurement_takes_the_place_of_a_variant_without_one(tmp_path: Path) -> None:
    unmeasured = measured("b8_q50_r672").model_copy(update={"bench": None})
    first = table(tmp_path / "one", unmeasured, measured("b8_q50_r560"))
    second = table(tmp_path / "two", measured("b8_q50_r672"))
    rows = merge([first, second])["rows"]
    assert [row["variant"] for row in rows] == ["b8_q50_r672", "b8_q50_r560"]
    assert rows[0]["speed"] == merge([second])["rows"][0]["speed"]
    assert merge([second, first])["rows"][0] == rows[0]


def test_ratios_stand_only_beside_the_same_work(tmp_path: Path) -> None:
    files = [table(tmp_path, measured()), saved(tmp_path / "r672.json", baseline(prompts=8))]
    beside = merge(files)["rows"][0]["beside"]
    assert [line["images"] for line in beside] == [1, 8]
    assert not [column for line in beside for column in line if column.startswith("end to end")]


@pytest.mark.parametrize("content", ["{", "{}", '{"variants": [{"variant": "b8"}]}', '{"ways": []}'])
def test_other_files_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(RecordError, match=r"other\.json"):
        merge([tmp_path / "other.json"])
    with pytest.raises(RecordError, match=r"absent.json is missing"):
        merge([tmp_path / "absent.json"])


def test_shares_of_a_little_and_of_nearly_all_say_so() -> None:
    assert [percent(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)] == ["0%", "<1%", "50%", ">99%", "100%"]


def test_what_was_found_stands_beside_what_was_expected(tmp_path: Path) -> None:
    row = merge([table(tmp_path, measured())])["rows"][0]["accuracy"][0]
    assert (row["found"], row["expected"], "detections" in row) == (11, 12, False)


def test_measurements_from_before_detections_were_counted_are_read(tmp_path: Path) -> None:
    older = measured().model_dump(mode="json")
    del older["found"]
    (tmp_path / "table.json").write_text(json.dumps({"variants": [older]}))
    write_merged([tmp_path / "table.json"], tmp_path / "out")
    assert "| expected |" in (tmp_path / "out.md").read_text()
    assert "| found |" not in (tmp_path / "out.md").read_text()


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    file = table(tmp_path, measured(), measured("b8_q50_r672_int8"))
    run = CliRunner().invoke(app, ["table", str(file), "--output", str(tmp_path / "docs/h200")])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "docs/h200.md").is_file()
    assert str(tmp_path) not in (tmp_path / "docs/h200.json").read_text()


def test_a_variant_that_was_not_built_has_its_row(tmp_path: Path) -> None:
    absent = Measured(variant="b8_q50_r560", status="failed", reason="out of memory")
    write_merged([table(tmp_path, measured(), absent)], tmp_path / "out")
    assert "b8_q50_r560 is **failed**: out of memory" in (tmp_path / "out.md").read_text()


@pytest.mark.parametrize("name", ["h200", "classifier-h200"])
def test_the_committed_table_is_that_of_its_json(name: str) -> None:
    results = Path(__file__).parents[2] / "docs/results"
    found = merge([results / f"{name}.json"])
    assert found == json.loads((results / f"{name}.json").read_text())
    assert merged_markdown(found) == (results / f"{name}.md").read_text()
