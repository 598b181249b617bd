"""The layers: what the Snakefile imports is pure, the runtime needs no PyTorch, each rule's code covers its script."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sam3_runtime.toolchain import BUILDER_MODULES

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "sam3_runtime"
JOB_TIME = ("export", "quantize", "builders", "jobs", "prune", "gpu_lock")
# Shared plumbing: an edit there changes messages, places or records' schema, and no graph, engine or measurement.
PLUMBING = {
    "errors", "files", "jobs", "config", "contract", "configure", "overview", "variants", "planning", "toolchain",
    "settings", "placed_yaml", "measurements", "report_text",
    "builders/cache", "builders/graph", "builders/tensorrt_progress", "builders/timing_cache", "builders/inspector",
    "export/locking", "backends/__init__", "backends/base", "backends/onnxruntime",
    "export/__init__", "evaluation/__init__", "export/tokenizer", "quantize/__init__", "pack", "__init__",
    "backends/fake", "backends/page_locked", "gpus", "memory",
    "backends/tensorrt_rtx", "backends/tensorrt_logger",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path, top_level: bool = False) -> set[str]:
    """Modules that a file imports: anywhere, or only those that importing it imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_what_the_snakefile_imports_is_pure() -> None:
    program = (
        "import sys; import sam3_runtime.planning, sam3_runtime.report, sam3_runtime.jobs, sam3_runtime.contract;"
        "print([name for name in ('numpy', 'torch', 'onnx', 'onnxruntime', 'cv2') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_runtime_never_imports_what_only_jobs_need(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in (*JOB_TIME, "cli"):
        pytest.skip("job time")
    heavy = re.compile(r"(torch|transformers|snakemake|onnx|filelock)\b")
    job_time = re.compile(rf"sam3_runtime\.({'|'.join(JOB_TIME)})\b")
    wrong = {name for name in imported(path) if heavy.match(name) or job_time.match(name)}
    assert wrong == set()


def test_the_command_line_imports_job_time_modules_only_when_asked() -> None:
    program = (
        "import sys, sam3_runtime.cli; print([n for n in ('torch', 'numpy', 'onnx', 'filelock') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_checkpoint_is_locked_without_importing_pytorch(tmp_path: Path) -> None:
    """Seconds, before anything else can begin."""
    program = (
        "import pathlib, sys; from sam3_runtime.export import checkpoint, locking;"
        "lock = locking.lock_once(pathlib.Path(sys.argv[1]), 'demo/checkpoint', None, 'demo/checkpoint');"
        "checkpoint.write_tokenizer(lock, pathlib.Path(sys.argv[2]));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "checkpoint.lock"), str(tmp_path / "tokenizer.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    assert run.stdout.strip() == "[]"
    assert (tmp_path / "tokenizer.json").is_file()


def needed_by(name: str, seen: set[str]) -> set[str]:
    """What a module imports of this package, transitively, plumbing left out."""
    path = PACKAGE / f"{name}.py"
    for module in imported(path):
        short = module.removeprefix("sam3_runtime.").replace(".", "/")
        known = next((s for s in (short, f"{short}/__init__") if (PACKAGE / f"{s}.py").is_file()), None)
        if module.startswith("sam3_runtime.") and known and known not in seen | PLUMBING:
            seen.add(known)
            needed_by(known, seen)
    return seen


# export/graph.py imports all of them and runs one.
OTHER_PARTS = {f"export/{part}" for part in ("text", "vision", "geometry", "decoder")}
RULES = {
    "export_text_encoder": "export/text",
    "export_vision_encoder": "export/vision",
    "export_geometry_encoder": "export/geometry",
    "export_decoder": "export/decoder",
    "compute_reference": "export/reference",
    "compute_accuracy": "export/accuracy",
    "measure_scales": "quantize/collect",
    "quantize_vision_encoder": "quantize/insert",
    "calibrate_vision_encoder": "quantize/calibrate",
    "build_vision_encoder": "builders/tensorrt_rtx",
    "build_geometry_encoder": "builders/tensorrt",
    "build_decoder": "builders/onnxruntime",
    "verify_variant": "verify",
    "evaluate_variant": "cli_evaluate",
    "bench_variant": "benchmark",
    "measure_baseline": "export/baselines",
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rules_code_covers_what_its_job_runs(rule: str) -> None:
    """Editing an imported module reruns nothing by itself: each must be an input of its rule."""
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "rules").glob("*.smk")))
    body = re.split(r"\nrule ", text.split(f"rule {rule}:")[1])[0]
    listed = set(re.findall(r'"([\w/]+)\.py"', body.split("output:")[0]))
    constants = {
        "EXPORT_CODE": r"EXPORT_CODE = \[(.*?)\]",
        "MEASURING_CODE": r"MEASURING_CODE = \[(.*?)\]",
        "BUILD_CODE": r"BUILD_CODE = code\((.*?)\)\n",
    }
    for constant, pattern in constants.items():
        if constant in body:
            found = re.search(pattern, text, flags=re.DOTALL)
            assert found
            listed |= set(re.findall(r'"([\w/{}.]+)\.py"', found[1]))
    module = RULES[rule]
    needed = needed_by(module, {module})
    if rule.startswith("export_"):
        needed |= needed_by("export/graph", {"export/graph"}) - OTHER_PARTS
    if rule == "measure_scales":
        needed = {name for name in needed if not name.startswith("export/")}  # they made its input, the graph
    builder = module
    if rule == "calibrate_vision_encoder":
        builder = "builders/tensorrt"
        needed -= {"backends/cuda"}  # carry frames to the GPU and back, as they are
    if builder.startswith("builders/"):
        assert "*PLAN.builder_modules()" in text
        own = {f"builders/{name}" for name in BUILDER_MODULES[builder.split("/")[1].replace("_", "-")]}
        every = {f"builders/{name}" for names in BUILDER_MODULES.values() for name in names}
        needed -= every - own  # builders/__init__.py imports all of them and runs one
        listed |= own
    assert needed - listed - PLUMBING == set()
    assert {name for name in listed if not (PACKAGE / f"{name}.py").is_file() and "{" not in name} == set()


def test_scripts_and_rules_stay_small() -> None:
    for path in sorted((PROJECT / "workflow_scripts").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 30, path
    assert len((PROJECT / "Snakefile").read_text().splitlines()) <= 50
