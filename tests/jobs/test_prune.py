"""Only what nothing uses is removed, and what may be a moved folder's is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("filelock")

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.files import this_process
from sam3_runtime.jobs import job, prune
from sam3_runtime.jobs.engine_cache import get_or_build
from sam3_runtime.jobs.prune import Kept, Unused, find_unused, remove
from sam3_runtime.plan.planning import Plan, make_plan
from tests.jobs.test_engine_cache import Builder

LISTED, OTHER = "engines/b8_q50_r672", "engines/b8_q50_r560"
CACHE = Path("engines/cache")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "variants.yaml").write_text("backend: onnxruntime\nvariants: [{resolution: 672}]\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SAM3_ENGINE_CACHE", raising=False)
    return folder


@pytest.fixture
def plan(work: Path) -> Plan:
    return make_plan(work / "variants.yaml", work)


def write(work: Path, *files: str) -> None:
    for file in files:
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        (work / file).write_bytes(b"12345")


def named(unused: list[Unused], work: Path) -> dict[str, int]:
    return {one.path.relative_to(work).as_posix(): one.size for one in unused}


def test_what_a_listed_variant_needs_stays(work: Path, plan: Plan) -> None:
    write(
        work, f"{LISTED}/config.json", "onnx/r672/decoder_q50.onnx", "reference/r672.safetensors",
        "bench/b8_q50_r672.json",
        f"{OTHER}/config.json", "onnx/r560/decoder_q50.onnx", "reference/r560.safetensors", "bench/b8_q50_r560.json",
        "onnx/r672/.decoder_q99.onnx.part", "engines/mine/notes.txt",
    )  # fmt: skip
    unused, kept = find_unused(plan, work)
    assert kept == []
    assert named(unused, work) == {
        OTHER: 5, "bench/b8_q50_r560.json": 5, "onnx/r560/decoder_q50.onnx": 5, "reference/r560.safetensors": 5,
    }  # fmt: skip
    assert [remove(one) for one in unused] == [True] * 4
    assert find_unused(plan, work) == ([], [])
    assert (work / "engines/mine/notes.txt").is_file()


def test_a_cached_engine_goes_when_its_last_link_does(work: Path, plan: Plan) -> None:
    used, other = (Path(f"engines/store/b8_r{size}/decoder_q50.engine") for size in (672, 560))
    get_or_build(used, "a" * 32, CACHE, Builder())
    get_or_build(other, "b" * 32, CACHE, Builder())
    unused, _ = find_unused(plan, work)
    assert named(unused, work).keys() == {other.as_posix(), f"{other}.json", f"{CACHE}/{'b' * 32}"}
    assert [remove(one) for one in unused] == [True] * 3
    assert used.read_bytes() == b"engine"
    assert [path.name for path in CACHE.glob("[ab]*")] == ["a" * 32]


def test_an_engine_of_a_folder_that_is_gone_is_kept_unless_said(work: Path, plan: Plan) -> None:
    elsewhere = work.parent / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(elsewhere)
        get_or_build(Path("engines/store/b8/text-encoder.engine"), "a" * 32, work / CACHE, Builder())
    elsewhere.rename(work.parent / "moved")
    unused, kept = find_unused(plan, work)
    assert unused == []
    assert kept == [Kept((elsewhere,), sum(path.stat().st_size for path in (work / CACHE / ("a" * 32)).iterdir()))]
    (gone,), _ = find_unused(plan, work, gone=True)
    assert gone.why == "no work folder links this cached engine"


def test_an_engine_that_is_linked_again_meanwhile_stays(work: Path, plan: Plan) -> None:
    engine = Path("engines/store/b8_r672/decoder_q50.engine")
    get_or_build(engine, "a" * 32, CACHE, Builder())
    engine.unlink()
    (unused,) = (one for one in find_unused(plan, work)[0] if one.entry)
    get_or_build(engine, "a" * 32, CACHE, Builder())
    assert not remove(unused)
    assert engine.read_bytes() == b"engine"


def test_what_a_killed_build_left_is_unused(work: Path, plan: Plan) -> None:
    gone = replace(this_process(), pid=2**22 + 1)
    for owner in (gone, this_process()):
        (CACHE / f".{'a' * 32}.{owner}.part").mkdir(parents=True)
    (left,), _ = find_unused(plan, work)
    assert left.path.name == f".{'a' * 32}.{gone}.part"
    assert remove(left)
    assert not left.path.exists()


def test_nothing_is_looked_for_while_snakemake_runs(work: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise WorkFolderError(f"snakemake is running in {folder}")

    assert prune.refuse_while_running is job.refuse_while_running
    monkeypatch.setattr(prune, "refuse_while_running", refuse)
    with pytest.raises(WorkFolderError, match="is running"):
        find_unused(plan, work)
