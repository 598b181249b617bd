"""The table: rows from what is there, and a judgement that fails for every variant that did not pass."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.families.sam3.parts import PART_NAMES
from sam3_runtime.plan.paths import chain
from sam3_runtime.plan.planning import Plan, make_plan
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.measurements import BenchResult, CameraBench, Latency
from sam3_runtime.records.records import Check, Verdict
from sam3_runtime.report.report import GateError, judge, write_tables
from tests.engine_records import engine_record

NAME = "b8_q50_r672"


def listing(folder: Path, *names: str) -> Plan:
    """The plan of a work folder that lists these variants."""
    lines = "\n".join(Variant.from_name(name).yaml_line for name in names)
    (folder / "variants.yaml").write_text(f"model: {{checkpoint: random}}\nbackend: onnxruntime\nvariants:\n{lines}\n")
    return make_plan(folder / "variants.yaml", folder)


def built(folder: Path, name: str = NAME) -> dict[str, str]:
    digests = {}
    for place, part in enumerate(PART_NAMES):
        record = engine_record(part, sha256=f"{place}" * 64)
        record.write(folder / f"engines/{name}/{part}.engine.json")
        digests[part] = record.sha256
    return digests


def verdict(folder: Path, status: Any, engines: dict[str, str], name: str = NAME) -> None:
    checks = (Check(name="mask cosine", value=0.99995, limit=0.999, sense="at least"),)
    fields = {"gate": {}, "device": "cpu", "reference_sha256": "", "detections": 12, "found": 9, "checks": checks}
    Verdict(variant=name, status=status, reason="because", engines=engines, **fields).write(  # type: ignore[arg-type]
        folder / f"engines/{name}/verify.json"
    )


def bench(folder: Path, engines: dict[str, str], stable: bool = True, counts: tuple[int, ...] = (8, 1)) -> None:
    def camera(count: int) -> CameraBench:
        latency = Latency(median=10.0 * count, mean=11.0, p95=12.0, p99=13.0, n=30)
        return CameraBench(
            cameras=count, end_to_end=latency, stages={"vision": latency}, fps_per_camera=100.0, stable=stable,
            masks_kept=3.0, samples_ms=(10.0,),
        )  # fmt: skip

    fields: dict[str, Any] = {
        "variant": NAME, "backend": "onnxruntime", "device": "cpu", "toolchain": engine_record("decoder").toolchain,
        "checkpoint": "sam3", "checkpoint_digest": "", "engines": engines, "date": "2026-01-01", "threads": None,
        "prompts": 1, "load_seconds": 0.5, "memory_before_mib": 100.0, "memory_peak_mib": 500.4,
        "cameras": tuple(map(camera, counts)),
        "parts": (),
    }  # fmt: skip
    BenchResult(**fields).write(folder / f"bench/{NAME}.json")


def test_what_is_unknown_is_not_written_and_numbers_have_their_nouns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A work folder without a toolchain and without a checkpoint, with one variant and with two."""
    names = [NAME, "b8_q50_r560"]
    verdict(tmp_path, "passed", built(tmp_path))
    judge(tmp_path, listing(tmp_path, NAME))
    said = capsys.readouterr().out
    assert "\n1 variant passed.\n" in said
    assert "None" not in said
    assert "backend" not in said.split("\n\n")[1]
    verdict(tmp_path, "passed", built(tmp_path, names[1]), names[1])
    judge(tmp_path, listing(tmp_path, *names))
    assert "\nAll 2 variants passed.\n" in capsys.readouterr().out
    verdict(tmp_path, "unverified", built(tmp_path))
    judge(tmp_path, listing(tmp_path, NAME))
    assert "\nBuilt, not verified: 1 of 1 variant; verify" in capsys.readouterr().out


def test_a_variant_that_passed(tmp_path: Path) -> None:
    digests = built(tmp_path)
    verdict(tmp_path, "passed", digests)
    bench(tmp_path, digests)
    judge(tmp_path, listing(tmp_path, NAME))
    row = json.loads((tmp_path / "bench/table.json").read_text())["rows"][0]
    assert (row["status"], row["vision_ms"], row["8cam_fps"], row["memory_mib"]) == ("passed", 10.0, "100.00", 500)
    assert row["engines_mib"] == 4.0
    assert f"| {NAME} | passed |" in (tmp_path / "bench/table.md").read_text()
    text = (tmp_path / "bench/table.md").read_text()
    assert "because" not in text
    assert "`passed`: within" in text
    assert "unstable" not in text, "it is explained where it stands"
    rows = list(csv.DictReader((tmp_path / "bench/table.csv").read_text().splitlines()))
    assert rows[0]["cosine"] == "0.99995"
    assert NAME in (tmp_path / "bench/report.html").read_text()


def test_what_was_found_stands_beside_what_was_expected(tmp_path: Path) -> None:
    verdict(tmp_path, "passed", built(tmp_path))
    row = write_tables(tmp_path, listing(tmp_path, NAME))["rows"][0]
    assert (row["found"], row["expected"], "detections" in row) == (9, 12, False)
    head, _, line = (tmp_path / "bench/table.md").read_text().split("\n\n")[2].splitlines()
    shown = dict(zip(*[[cell.strip() for cell in text.split("|")] for text in (head, line)], strict=True))
    assert (shown["found"], shown["expected"]) == ("9", "12")


@pytest.mark.parametrize("order", [(0.9995, float("nan")), (float("nan"), 0.9995)])
def test_a_cosine_that_is_no_number_hides_behind_no_other(tmp_path: Path, order: tuple[float, ...]) -> None:
    checks = tuple(
        Check(name=f"fpn_feat_{level} cosine", value=value, limit=0.999, sense="at least")
        for level, value in enumerate(order)
    )
    fields: dict[str, Any] = {"gate": {}, "device": "cpu", "reference_sha256": "", "engines": built(tmp_path)}
    path = tmp_path / f"engines/{NAME}/verify.json"
    Verdict(variant=NAME, status="rejected", reason="nan", checks=checks, **fields).write(path)
    assert write_tables(tmp_path, listing(tmp_path, NAME))["rows"][0]["cosine"] is None


def test_stages_are_of_one_camera_or_say_of_how_many(tmp_path: Path) -> None:
    digests = built(tmp_path)
    verdict(tmp_path, "passed", digests)
    for counts, column, median in (((8, 1), "vision_ms", 10.0), ((8, 4), "4cam_vision_ms", 40.0)):
        bench(tmp_path, digests, counts=counts)
        row = write_tables(tmp_path, listing(tmp_path, NAME))["rows"][0]
        assert {name: value for name, value in row.items() if name.endswith("vision_ms")} == {column: median}


def test_the_table_says_when_it_was_measured(tmp_path: Path) -> None:
    """It is written in every run; what it shows may be older."""
    digests = built(tmp_path)
    verdict(tmp_path, "passed", digests)
    bench(tmp_path, digests)
    write_tables(tmp_path, listing(tmp_path, NAME))
    assert "measured: 2026-01-01; table of: " in (tmp_path / "bench/table.md").read_text()


def test_the_accuracy_on_a_data_set_and_a_nan_have_cells(tmp_path: Path) -> None:
    checks = (Check(name="fpn_feat_2 cosine", value=float("nan"), limit=0.999, sense="at least"),)
    fields: dict[str, Any] = {"gate": {}, "device": "cpu", "reference_sha256": "", "checks": checks}
    fields |= {"accuracy": {"box": {"ap": 0.51239}, "mask": None}, "engines": built(tmp_path)}
    Verdict(variant=NAME, status="rejected", reason="zeros", **fields).write(tmp_path / f"engines/{NAME}/verify.json")
    row = write_tables(tmp_path, listing(tmp_path, NAME))["rows"][0]
    assert (row["status"], row["box_ap"], row["cosine"], "mask_ap" in row) == ("rejected", 0.5124, None, False)
    assert "| 0.5124 |" in (tmp_path / "bench/table.md").read_text()
    json.loads((tmp_path / "bench/table.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("status", ["rejected", "failed"])
def test_a_variant_that_did_not_pass_fails_the_command(tmp_path: Path, status: str) -> None:
    verdict(tmp_path, status, built(tmp_path))
    with pytest.raises(GateError, match=f"{NAME}: {status}: because"):
        judge(tmp_path, listing(tmp_path, NAME))


def done_before(folder: Path, plan: Plan, name: str, log: str) -> None:
    """Let the jobs that come before that of ``log`` have made their files."""
    for step in chain(plan, plan.variant(name)):
        if step.log == log:
            return
        for file in step.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
    pytest.fail(f"no job has the log {log}")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("starting\nError: out of memory\nHint: a smaller batch\n", "out of memory"),
        ("starting\nTraceback (most recent call last):\n  File x\nKeyError: 'x'\n", "a defect: KeyError: 'x'"),
        ("starting\n", "its job ended without a message: it was killed, or ran out of memory"),
    ],
)
@pytest.mark.parametrize(
    "log",
    ["build/b8_r560/decoder_q50", "reference/r560_accuracy", "link/b8_q50_r560/decoder", "copy_tokenizer"],
)
def test_a_variant_failed_with_what_its_first_job_without_files_said(
    tmp_path: Path, log: str, said: str, reason: str
) -> None:
    plan = listing(tmp_path, "b8_q50_r560")
    if "accuracy" in log:
        text = (tmp_path / "variants.yaml").read_text()
        (tmp_path / "variants.yaml").write_text(f"{text}accuracy: {{annotations: a.json}}\n")
        plan = make_plan(tmp_path / "variants.yaml", tmp_path)
    path = tmp_path / f"logs/{log}.log"
    path.parent.mkdir(parents=True)
    path.write_text(said)
    done_before(tmp_path, plan, "b8_q50_r560", f"logs/{log}.log")
    row = write_tables(tmp_path, plan)["rows"][0]
    assert (row["status"], row["reason"]) == ("failed", f"{reason} (logs/{log}.log)")


def test_missing_and_failed_variants_have_rows(tmp_path: Path) -> None:
    log = tmp_path / "logs/build/b8_r560/decoder_q50.log"
    log.parent.mkdir(parents=True)
    log.write_text("starting\nError: out of memory\nHint: a smaller batch\n")
    with pytest.raises(GateError, match="2 of 2"):
        judge(tmp_path, listing(tmp_path, "b8_q50_r560", "b8_q50_r840"))
    rows = json.loads((tmp_path / "bench/table.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["failed", "missing"]
    assert "out of memory (logs/build/b8_r560/decoder_q50.log)" in rows[0]["reason"]


def test_a_verdict_about_other_engines_counts_nothing(tmp_path: Path) -> None:
    digests = built(tmp_path)
    verdict(tmp_path, "passed", digests | {"decoder": "f" * 64})
    bench(tmp_path, digests | {"decoder": "f" * 64})
    row = write_tables(tmp_path, listing(tmp_path, NAME))["rows"][0]
    assert row["status"] == "missing"
    assert "vision_ms" not in row


def test_an_unstable_run_says_so_and_a_partial_table_too(tmp_path: Path) -> None:
    digests = built(tmp_path)
    bench(tmp_path, digests, stable=False)
    verdict(tmp_path, "passed", digests)
    write_tables(tmp_path, listing(tmp_path, NAME), partial=True)
    text = (tmp_path / "bench/table.md").read_text()
    assert "10.0 (unstable)" in text
    assert "`(unstable)`: the medians" in text
    assert "partial" in text


def test_what_is_written_holds_no_path(tmp_path: Path) -> None:
    digests = built(tmp_path)
    bench(tmp_path, digests)
    assert str(tmp_path) not in (tmp_path / f"bench/{NAME}.json").read_text()


def test_what_the_table_says_holds_no_path(tmp_path: Path) -> None:
    """It has everything that a merged table needs, and may be shared."""
    digests = built(tmp_path)
    verdict(tmp_path, "passed", digests)
    bench(tmp_path, digests)
    log = tmp_path / "logs/build/b8_r560/decoder_q50.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"Error: {tmp_path}/onnx/r560/decoder_q50.onnx and /opt/place/libnvinfer.so.8 do not fit\n")
    write_tables(tmp_path, listing(tmp_path, NAME, "b8_q50_r560"))
    text = (tmp_path / "bench/table.json").read_text()
    assert str(tmp_path) not in text
    assert "/opt/place" not in text
    found = json.loads(text)
    assert "onnx/r560/decoder_q50.onnx and libnvinfer.so.8 do not fit" in found["rows"][1]["reason"]
    whole = found["variants"][0]
    assert whole["bench"]["cameras"][0]["samples_ms"] == [10.0]
    assert set(whole["engines"]) == set(PART_NAMES)
    assert "command" not in whole["engines"]["decoder"]
