"""Faults that a build must survive: killed jobs, a killed Snakemake, failed rebuilds, edited and damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sam3_runtime.core.files import process_is_alive
from tests.workflow.conftest import PROJECT, WorkFolder

GRAPH = "onnx/text-encoder.onnx"
ENGINE = "engines/store/b2/text-encoder.engine"


def cli(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sam3_runtime.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def jobs_of(folder: WorkFolder) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in (folder.path / ".snakemake/sam3-jobs").glob("*-[0-9]*")]


@contextmanager
def running(folder: WorkFolder, *targets: str) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake in the background, until its first job (other than locking the checkpoint) has registered."""
    command = folder.command("--directory", str(folder.path), *targets)
    with open(folder.path / "background.log", "wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until(lambda: jobs_of(folder) or process.poll() is not None)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("target", [GRAPH, ENGINE])
def test_a_killed_job_is_redone_by_the_same_command(built: WorkFolder, target: str) -> None:
    (built.path / target).unlink()
    if target == ENGINE:
        for cached in (built.path / "engines/cache").glob("*/text-encoder.engine"):
            cached.unlink()
    with running(built, target) as process:
        os.kill(jobs_of(built)[0], signal.SIGKILL)
        process.wait()
        assert process.returncode != 0
    assert not (built.path / target).exists()
    again = built.snakemake(target)
    assert again.returncode == 0, again.stdout
    assert (built.path / target).exists()
    assert built.half_written() == []


def test_after_a_killed_snakemake_one_command_clears_everything(built: WorkFolder) -> None:
    (built.path / GRAPH).unlink()
    with running(built, GRAPH) as process:
        job = jobs_of(built)[0]
        os.kill(job, signal.SIGSTOP)  # so that it is not through before anybody looks
        process.kill()
        process.wait()
        locked = built.snakemake(GRAPH)
        assert locked.returncode != 0
        assert "lock" in locked.stdout.lower()
        os.kill(job, signal.SIGCONT)
        said = cli("unlock", "--directory", str(built.path))
        assert said.returncode == 0, said.stderr
        assert str(job) in said.stdout
        wait_until(lambda: not process_is_alive(job), 5)
    assert built.half_written() == []
    again = built.snakemake(GRAPH)
    assert again.returncode == 0, again.stdout


def test_two_at_once_the_second_names_the_lock(built: WorkFolder) -> None:
    (built.path / GRAPH).unlink()
    with running(built, GRAPH) as process:
        second = built.snakemake(GRAPH)
        assert second.returncode != 0
        assert "cannot be locked" in second.stdout
        refused = cli("unlock", "--directory", str(built.path))
        assert refused.returncode == 1
        assert "is running" in refused.stderr
        assert process.wait(timeout=120) == 0


def test_a_failed_rebuild_loses_nothing(built: WorkFolder) -> None:
    before = json.loads((built.path / f"{ENGINE}.json").read_text())
    graph = (built.path / GRAPH).read_bytes()
    (built.path / GRAPH).write_bytes(b"no graph")
    failed = built.snakemake(ENGINE)
    assert failed.returncode != 0
    assert "damaged or was not written by this project's export" in failed.stdout
    assert "Traceback" not in failed.stdout.split("Logfile", 1)[1].split("====")[1]
    assert not (built.path / ENGINE).exists()
    (built.path / GRAPH).write_bytes(graph)
    restored = built.snakemake(ENGINE)
    assert restored.returncode == 0, restored.stdout
    assert json.loads((built.path / f"{ENGINE}.json").read_text()) == before
    assert "taken from the cache" in (built.path / "logs/build/b2/text-encoder.log").read_text()


def test_new_settings_and_back_again_build_nothing_the_second_time(built: WorkFolder) -> None:
    before = (built.path / ENGINE).resolve()
    built.write(build={"optimization": "basic"})
    assert built.snakemake(ENGINE).returncode == 0
    other = (built.path / ENGINE).resolve()
    assert other != before
    built.write()
    assert built.snakemake(ENGINE).returncode == 0
    assert (built.path / ENGINE).resolve() == before
    assert "taken from the cache" in (built.path / "logs/build/b2/text-encoder.log").read_text()
    assert len(list((built.path / "engines/cache").glob("*/text-encoder.engine"))) == 2


def test_a_variant_that_fails_has_its_row_and_stops_no_other(built: WorkFolder) -> None:
    built.write(
        variants=[{"resolution": 224, "quantize": ["none", "int8"]}],
        calibration={"source": "nowhere.mp4", "frames": 2},
        gate={"float": {"box_iou": 0.9}},
    )
    run = built.snakemake("bench_all")
    assert run.returncode != 0
    table = json.loads((built.path / "bench/table.json").read_text())
    rows = {row["variant"]: row for row in table["rows"]}
    assert table["partial"]
    assert rows["b2_q50_r224"]["status"] == "passed"
    assert rows["b2_q50_r224_int8"]["status"] == "failed"
    assert "nowhere.mp4" in rows["b2_q50_r224_int8"]["reason"]
    # Taken out of the list, it leaves no row.
    built.write()
    assert built.snakemake("bench_all").returncode == 0
    table = json.loads((built.path / "bench/table.json").read_text())
    assert [row["variant"] for row in table["rows"]] == ["b2_q50_r224"]
    assert not table["partial"]


def test_a_rejected_variant_ends_every_run_with_an_error(built: WorkFolder) -> None:
    built.write(gate={"float": {"logit_error": 0}})
    for _ in range(2):
        run = built.snakemake()
        assert run.returncode != 0
        assert "b2_q50_r224: rejected: logit error" in run.stdout
    row = json.loads((built.path / "bench/table.json").read_text())["rows"][0]
    assert row["status"] == "rejected"


def test_a_pickle_and_a_missing_shard_are_refused(fresh: WorkFolder, demo_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((demo_checkpoint / name).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    fresh.write(model={"checkpoint": str(folder)})
    run = fresh.snakemake("checkpoint.lock")
    assert run.returncode != 0
    assert "safetensors" in run.stdout
    assert "Hint" in run.stdout


def test_an_unreachable_hub_gets_one_message(fresh: WorkFolder) -> None:
    fresh.write(model={"checkpoint": "facebook/sam3"}, variants=[{"resolution": 1008}])
    run = fresh.snakemake("checkpoint.lock", HF_HUB_OFFLINE="1")
    assert run.returncode != 0
    log = (fresh.path / "logs/lock_checkpoint.log").read_text()
    for way in ("hf auth login", "local folder", "make demo"):
        assert way in log
    assert "Traceback" not in log


def test_weights_that_changed_are_noticed(built: WorkFolder, demo_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in demo_checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(data))
    lock = json.loads((built.path / "checkpoint.lock").read_text())
    (built.path / "checkpoint.lock").write_text(json.dumps(lock | {"checkpoint": str(copy)}))
    built.write(model={"checkpoint": str(copy)})
    (built.path / GRAPH).unlink()
    run = built.snakemake(GRAPH)
    assert run.returncode != 0
    assert "changed since" in run.stdout


def test_a_full_disk_is_one_message_and_no_half_file(built: WorkFolder, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        packed = cli("pack", str(built.path / "engines/b2_q50_r224"), str(small / "out.tar"))
        assert packed.returncode == 1
        assert "cannot be written" in packed.stderr
        assert list(small.iterdir()) == []
        built.write(build={"cache": str(small), "optimization": "basic"})
        run = built.snakemake(ENGINE)
        assert run.returncode != 0
        assert "No space left" in run.stdout
        assert [path for path in small.iterdir() if not path.name.endswith(".lock")] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_prune_frees_what_left_the_list_and_nothing_else(built: WorkFolder) -> None:
    built.write(variants=[{"resolution": 224, "batch": [2, 4]}])
    assert built.snakemake("build_all").returncode == 0
    built.write()
    said = cli("prune", "--directory", str(built.path))
    assert "b4_q50_r224" in said.stdout
    assert (built.path / "engines/b4_q50_r224").exists()
    freed = cli("prune", "--directory", str(built.path), "--delete")
    assert freed.returncode == 0, freed.stderr
    assert not (built.path / "engines/b4_q50_r224").exists()
    assert {path.parent.name for path in (built.path / "engines/store").rglob("*.engine")} == {"b2", "b2_r224"}
    assert built.planned() == {"all": 1}
    assert "no unused files" in cli("prune", "--directory", str(built.path)).stdout
