"""An edit of the project's own code renews exactly what it decides; its folder and its comments decide nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.workflow.conftest import WorkFolder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_another_folder_and_comments_rerun_nothing(built: WorkFolder, own_project: Path) -> None:
    moved = WorkFolder(built.path, own_project)
    assert moved.planned("bench_all") == {"bench_all": 1}
    edit(
        own_project / "sam3_runtime/families/sam3/export/layers.py", "from __future__", "# A comment.\nfrom __future__"
    )
    edit(own_project / "workflow_scripts/build_engine.py", '"""Build one engine', '"""Builds one engine')
    assert moved.planned("bench_all") == {"bench_all": 1}


def test_an_edited_builder_makes_new_engines(built: WorkFolder, own_project: Path) -> None:
    """Not by a plan alone: what the cache has of the old code is not taken for it."""
    folder = WorkFolder(built.path, own_project)
    store = built.path / "engines/store/b2_r224"
    before = {path.name: path.read_bytes() for path in store.glob("*.engine")}
    judged = json.loads((built.path / "engines/b2_q50_r224/verify.json").read_text())["engines"]
    edit(
        own_project / "sam3_runtime/engines/building/onnxruntime.py",
        "else levels.ORT_ENABLE_EXTENDED",
        "else levels.ORT_DISABLE_ALL",
    )
    assert folder.planned() == {
        "build_engine": 4,
        "link_engine": 4,
        "configure_variant": 1,
        "verify_variant": 1,
        "all": 1,
    }
    run = folder.snakemake()
    assert run.returncode == 0, run.stdout
    assert before.keys() == {"vision-encoder.engine", "geometry-encoder.engine", "decoder_q50.engine"}
    assert all((store / name).read_bytes() != content for name, content in before.items())
    assert "taken from the cache" not in (built.path / "logs/build/b2_r224/decoder_q50.log").read_text()
    now = json.loads((built.path / "engines/b2_q50_r224/verify.json").read_text())["engines"]
    assert all(now[part] != judged[part] for part in judged)
    # The former code finds its engines in the cache.
    assert built.snakemake().returncode == 0
    assert {path.name: path.read_bytes() for path in store.glob("*.engine")} == before


def test_an_edited_running_module_makes_verdict_and_benchmark_due(built: WorkFolder, own_project: Path) -> None:
    folder = WorkFolder(built.path, own_project)
    edit(
        own_project / "sam3_runtime/engines/running/onnxruntime.py",
        "settings.log_severity_level = 3",
        "settings.log_severity_level = 3\n        settings.enable_mem_pattern = False",
    )
    assert folder.planned("bench_all") == {"verify_variant": 1, "bench_variant": 1, "bench_all": 1}
    verdict = built.path / "engines/b2_q50_r224/verify.json"
    before = verdict.stat().st_mtime_ns
    assert folder.snakemake("verify_all").returncode == 0
    assert verdict.stat().st_mtime_ns != before


def test_an_edited_export_builds_nothing_where_the_graph_stays(built: WorkFolder, own_project: Path) -> None:
    folder = WorkFolder(built.path, own_project)
    edit(
        own_project / "sam3_runtime/families/sam3/export/text.py",
        "import annotations\n",
        "import annotations\n\nimport re as _re\n",
    )
    planned = folder.planned("engines/b2_q50_r224/text-encoder.engine")
    assert planned == {"export_graph_with_data": 1, "build_engine": 1, "link_engine": 1}
    assert folder.snakemake("engines/b2_q50_r224/text-encoder.engine").returncode == 0
    assert "taken from the cache" in (built.path / "logs/build/b2/text-encoder.log").read_text()
