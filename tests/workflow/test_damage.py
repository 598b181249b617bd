"""Folders that were damaged, moved, exchanged or lost their cache: the command that builds mends them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sam3_runtime.core.files import sha256_of, this_process
from sam3_runtime.records.records import EngineRecord, VariantConfig, Verdict
from tests.workflow.conftest import WorkFolder
from tests.workflow.test_faults import cli

NAME = "b2_q50_r224"
VARIANT = f"engines/{NAME}"
STORED = "engines/store/b2_r224/decoder_q50.engine"
AFTER = {"link_engine": 1, "configure_variant": 1, "verify_variant": 1, "all": 1}


def overwrite(path: Path) -> None:
    """Other bytes, as many as before."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def damage_engine(folder: Path) -> None:
    overwrite((folder / STORED).resolve())


def cut_engine(folder: Path) -> None:
    os.truncate((folder / STORED).resolve(), 1000)


def edit_record(folder: Path) -> None:
    edit(folder / f"{STORED}.json", '"batch": 2', '"batch": 3')


def lead_the_link_elsewhere(folder: Path) -> None:
    link = folder / VARIANT / "decoder.engine"
    link.unlink()
    link.symlink_to("../store/b2_r224/geometry-encoder.engine")


def put_a_file_over_the_link(folder: Path) -> None:
    link = folder / VARIANT / "decoder.engine"
    link.unlink()
    link.write_bytes(b"something else")


def edit_config(folder: Path) -> None:
    edit(folder / VARIANT / "config.json", '"batch": 2', '"batch": 4')


def edit_tokenizer(folder: Path) -> None:
    edit(folder / "onnx/tokenizer.json", "{", "{ ")


def edit_verdict(folder: Path) -> None:
    edit(folder / VARIANT / "verify.json", '"status": "passed"', '"status": "rejected"')


def fail_the_verdict(folder: Path) -> None:
    path = folder / VARIANT / "verify.json"
    Verdict.read(path).model_copy(update={"status": "failed", "reason": "out of GPU memory"}).write(path)


REBUILT = {"build_engine": 1, **AFTER}
CONFIGURED = {"configure_variant": 1, "verify_variant": 1, "all": 1}
DAMAGES = [
    (damage_engine, f"{STORED} is not the engine that its record describes", REBUILT),
    (cut_engine, f"{STORED} is cut off: it has 1000 bytes", REBUILT),
    (edit_record, f"{STORED} has a record that was edited", REBUILT),
    (lead_the_link_elsewhere, f"{VARIANT}/decoder.engine is not {STORED}", AFTER),
    (put_a_file_over_the_link, f"{VARIANT}/decoder.engine is not {STORED}", AFTER),
    (edit_config, f"{VARIANT}/config.json was edited", CONFIGURED),
    (
        edit_tokenizer,
        f"onnx/tokenizer.json is not the tokenizer that {VARIANT}/config.json names",
        {"copy_asset": 1, **CONFIGURED},
    ),
    (edit_verdict, f"{VARIANT}/verify.json was edited", {"verify_variant": 1, "all": 1}),
    (fail_the_verdict, f"{VARIANT}/verify.json reports a failure", {"verify_variant": 1, "all": 1}),
]


@pytest.mark.parametrize(("damage", "said", "planned"), DAMAGES)
def test_what_differs_from_its_record_is_due(
    built: WorkFolder, damage: Callable[[Path], None], said: str, planned: dict[str, int]
) -> None:
    damage(built.path)
    run = built.snakemake("--dry-run")
    assert built.jobs_of(run.stdout) == planned
    assert said in run.stdout


@pytest.mark.parametrize(
    "damages",
    [
        (damage_engine, put_a_file_over_the_link, edit_tokenizer, fail_the_verdict),
        (cut_engine, lead_the_link_elsewhere, edit_config, edit_verdict),
        (edit_record,),
    ],
)
def test_the_command_that_builds_mends(built: WorkFolder, damages: tuple[Callable[[Path], None], ...]) -> None:
    before = (built.path / STORED).read_bytes()
    for damage in damages:
        damage(built.path)
    run = built.snakemake()
    assert run.returncode == 0, run.stdout
    assert (built.path / STORED).read_bytes() == before
    assert Verdict.read(built.path / VARIANT / "verify.json").status == "passed"
    assert built.planned() == {"all": 1}
    assert "all files match their records" in cli("check", "-d", str(built.path)).stdout


def test_a_dry_run_mends_nothing(built: WorkFolder) -> None:
    damage_engine(built.path)
    damaged = (built.path / STORED).read_bytes()
    assert built.planned()["build_engine"] == 1
    assert (built.path / STORED).read_bytes() == damaged


def test_only_what_a_target_needs_is_mended_for_it(built: WorkFolder) -> None:
    damage_engine(built.path)
    fail_the_verdict(built.path)
    assert built.planned(f"{VARIANT}/text-encoder.engine") == {}
    assert built.planned(f"{VARIANT}/decoder.engine") == {"build_engine": 1, "link_engine": 1}
    assert built.planned(STORED) == {"build_engine": 1}


def test_damage_under_the_old_time_stamp_is_found_by_digest_and_mended_alike(built: WorkFolder) -> None:
    path = (built.path / STORED).resolve()
    stamp = path.stat().st_mtime
    damage_engine(built.path)
    os.utime(path, (stamp, stamp))
    assert built.planned() == {"all": 1}
    found = cli("check", "-d", str(built.path))
    assert found.returncode == 1
    assert f"{STORED} is not the engine that its record describes" in found.stdout
    assert built.planned() == REBUILT


def test_info_does_not_say_passed_of_a_damaged_engine(built: WorkFolder) -> None:
    assert "passed" in cli("info", str(built.path / VARIANT)).stdout
    damage_engine(built.path)
    one = cli("info", str(built.path / VARIANT))
    assert (one.returncode, one.stdout) == (1, "")
    assert f"snakemake --directory {os.path.relpath(built.path)} {VARIANT}/decoder.engine" in one.stderr
    (row,) = json.loads(cli("info", "--json", str(built.path / "engines")).stdout)["variants"]
    assert row["status"] == "damaged"
    assert "not the engine that its record describes" in row["reason"]


def test_a_verdict_that_failed_names_what_was_there_and_does_not_stick(built: WorkFolder) -> None:
    engine = (built.path / STORED).resolve()
    whole, found = engine.read_bytes(), engine.stat()
    damage_engine(built.path)
    damaged = sha256_of(engine)
    judged = cli("verify", str(built.path / VARIANT))
    assert judged.returncode == 1
    verdict = Verdict.read(built.path / VARIANT / "verify.json")
    assert (verdict.status, verdict.engines["decoder"]) == ("failed", damaged)
    engine.write_bytes(whole)
    os.utime(engine, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert "unverified" in cli("info", str(built.path / VARIANT)).stdout
    assert built.planned() == {"verify_variant": 1, "all": 1}
    assert built.snakemake().returncode == 0


def test_two_variants_that_were_exchanged_are_put_right(built: WorkFolder) -> None:
    built.write(variants=[{"resolution": 224, "batch": [2, 4]}])
    assert built.snakemake().returncode == 0
    one, other = built.path / VARIANT, built.path / "engines/b4_q50_r224"
    one.rename(built.path / "engines/aside")
    other.rename(one)
    (built.path / "engines/aside").rename(other)
    for said in (cli("info", str(one)), cli("verify", str(one))):
        assert said.returncode == 1
        assert f"{one} holds b4_q50_r224, by its config.json: the folder was renamed" in said.stderr
    run = built.snakemake()
    assert run.returncode == 0, run.stdout
    for folder in (one, other):
        assert VariantConfig.read(folder / "config.json").variant == folder.name
        assert Verdict.read(folder / "verify.json").variant == folder.name
        assert EngineRecord.read(folder / "decoder.engine.json").batch == int(folder.name[1])


def test_a_copy_elsewhere_and_a_link_may_have_any_name(built: WorkFolder, tmp_path: Path) -> None:
    shutil.copytree(built.path / VARIANT, tmp_path / "current")
    (built.path / "engines/production").symlink_to(NAME)
    for folder in (tmp_path / "current", built.path / "engines/production"):
        said = cli("info", str(folder))
        assert said.returncode == 0, said.stderr
        assert f"{NAME} (in {folder.name})" in said.stdout
    assert built.planned() == {"all": 1}
    assert "no unused files" in cli("prune", "-d", str(built.path)).stdout


def test_a_cache_that_is_gone_is_filled_again(built: WorkFolder) -> None:
    shutil.rmtree(built.path / "engines/cache")
    assert "points to a file that is gone" in cli("check", "-d", str(built.path)).stdout
    assert f"{STORED} led to " in built.snakemake("--dry-run").stdout
    assert built.planned()["build_engine"] == 4
    run = built.snakemake()
    assert run.returncode == 0, run.stdout
    assert built.planned() == {"all": 1}


def test_a_folder_that_was_moved_or_copied_plans_nothing(built: WorkFolder, tmp_path: Path) -> None:
    moved = WorkFolder(built.path.rename(tmp_path / "deeper" if (tmp_path / "deeper").mkdir() else tmp_path / "moved"))
    assert moved.planned("bench_all") == {"bench_all": 1}
    shutil.copytree(moved.path, tmp_path / "copy", symlinks=True, copy_function=shutil.copyfile)  # new time stamps
    assert WorkFolder(tmp_path / "copy").planned("bench_all") == {"bench_all": 1}


def test_two_folders_on_one_cache(built: WorkFolder, tmp_path: Path) -> None:
    """What one folder does not need stays while another, which was moved meanwhile, links it."""
    shared = tmp_path / "shared"
    (built.path / "engines/cache").rename(shared)
    built.write(build={"cache": str(shared)})
    assert built.snakemake().returncode == 0
    other = WorkFolder(tmp_path / "other")
    shutil.copytree(built.path, other.path, symlinks=True)
    other.write(build={"cache": str(shared)}, variants=[{"resolution": 224, "batch": 4}])
    assert other.snakemake("build_all").returncode == 0
    moved = WorkFolder(built.path.rename(tmp_path / "moved"))

    kept = cli("prune", "-d", str(other.path), "--delete")
    assert kept.returncode == 0, kept.stderr
    assert f"{built.path}, which no longer exists" in kept.stdout
    assert (moved.path / STORED).is_file()
    assert moved.planned() == {"all": 1}
    assert moved.snakemake().returncode == 0  # it is heard of again
    assert "which no longer exists" not in cli("prune", "-d", str(other.path)).stdout

    shutil.rmtree(moved.path)
    assert "which no longer exists" in cli("prune", "-d", str(other.path)).stdout
    assert {record.batch for record in map(EngineRecord.read, shared.rglob("*.engine.json"))} == {2, 4}
    freed = cli("prune", "-d", str(other.path), "--delete", "--gone")
    assert freed.returncode == 0, freed.stderr
    assert {record.batch for record in map(EngineRecord.read, shared.rglob("*.engine.json"))} == {4}
    assert other.planned("build_all") == {}


def test_prune_takes_any_way_to_the_folder(built: WorkFolder, tmp_path: Path) -> None:
    (built.path / "onnx/r238").mkdir()
    (built.path / "onnx/r238/decoder_q50.onnx").touch()
    (tmp_path / "link").symlink_to(built.path)
    for name, cwd in ((str(tmp_path / "link"), tmp_path), (f"../{built.path.name}", built.path)):
        said = cli("prune", "-d", name, cwd=cwd)
        assert "r238/decoder_q50.onnx" in said.stdout, said.stderr
        assert "engines/cache" not in said.stdout


def test_prune_leaves_what_is_being_written(built: WorkFolder) -> None:
    part = built.path / f"onnx/r224/.decoder_q50.onnx.{this_process()}.part"
    part.touch()
    cli("prune", "-d", str(built.path), "--delete")
    assert part.exists()


def test_a_folder_that_cannot_be_written_to_is_judged_and_measured(
    built: WorkFolder, tmp_path: Path, make_disk: Callable[[int], Path]
) -> None:
    disk = make_disk(40_000)
    assert cli("pack", str(built.path / VARIANT), str(tmp_path / "out.tar")).returncode == 0
    assert cli("unpack", str(tmp_path / "out.tar"), str(disk)).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    judged = cli("verify", str(disk / NAME))
    assert judged.returncode == 0, judged.stderr
    assert f"{NAME}: passed" in judged.stdout
    assert f"the verdict is not stored: {disk / NAME} cannot be written to" in judged.stdout.replace("\n", " ")
    refused = cli("bench", str(disk / NAME), "--output", str(disk / "bench.json"))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "bench.json cannot be written: Read-only file system" in refused.stderr
