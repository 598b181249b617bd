"""Measures time and memory of each export and each build alone, through the workflow itself.

    python -m sam3_runtime.families.sam3.export.builds --variants docs/results/rtx.variants.yaml --folder FOLDER

`make rtx-table` runs it. Every step is one `snakemake FILE`, one after the other, so that its seconds and its peak
memory are its own; steps that an earlier run measured and that Snakemake finds up to date are not repeated. Writes JSON
and Markdown beside it. For any backend; POSIX, like the workflow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import BuildError, Sam3Error
from sam3_runtime.core.files import write_atomically
from sam3_runtime.deploy.configure import read_records
from sam3_runtime.families.sam3.export.builds_page import markdown
from sam3_runtime.plan.paths import chain
from sam3_runtime.plan.planning import Plan, make_plan
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.memory import predict
from sam3_runtime.records.records import EngineRecord

PROJECT = Path(__file__).resolve().parents[4]
_LIBRARIES = ("torch", "transformers", "onnx", "snakemake")
Steps = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Workflow:
    """Snakemake in a work folder, with a variants file."""

    folder: Path
    variants: Path

    def make(self, file: str) -> dict[str, float] | None:
        """Make one file; return seconds and the peak memory (MiB) of the largest process, or None if it was up to date.

        The seconds include the start of the command. Raises :class:`BuildError` when it fails.
        """
        command = [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--nolock"),
            *("--directory", str(self.folder), "--config", f"variants={self.variants}", "--", file),
        ]
        log = self.folder / "measure.log"
        started = time.monotonic()
        with open(log, "wb") as output:
            process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        messages = log.read_text(errors="replace")
        if process.returncode:
            raise BuildError(f"{file} was not made:\n{messages[-3000:]}", f"see {self.folder}/logs")
        seconds, peak = time.monotonic() - started, usage.ru_maxrss / 1024
        return None if "Nothing to be done" in messages else {"seconds": round(seconds, 1), "peak_mib": round(peak, 1)}


STAGES = {
    "export": ("export",),
    "quantize": ("calibrate", "quantize"),
    "build": ("build",),
    "configure": ("configure",),
}
"""The stages of :mod:`sam3_runtime.plan.paths` that are measured together."""


def steps_of(plan: Plan, variant: Variant) -> dict[str, list[str]]:
    """Return the files of a variant in order, the first of each job, by the stages that are measured together."""
    steps = list(chain(plan, variant))
    return {name: [step.files[0] for step in steps if step.stage in stages] for name, stages in STAGES.items()}


def measure(variants: Path, folder: Path, output: Path) -> dict[str, Any]:
    """Make every variant of the file ``variants`` in the work folder ``folder``, and return what ``output`` contains.

    ``output`` (JSON) and its Markdown are written after each variant, so that an interrupted run can be continued.
    Raises :class:`BuildError` when a step fails, or was made before without being measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(variants, folder)
    workflow = Workflow(folder.absolute(), variants.absolute())
    known: Steps = json.loads(output.read_text())["steps"] if output.is_file() else {}
    workflow.make("checkpoint.lock")
    idle = time.monotonic()
    workflow.make("checkpoint.lock")
    start = round(time.monotonic() - idle, 1)
    steps: Steps = {}
    rows: list[dict[str, Any]] = []
    for name in plan.names:
        variant = plan.variant(name)
        added = []
        for file in (file for files in steps_of(plan, variant).values() for file in files if file not in steps):
            print(f"{name}: {file}", flush=True)
            taken = workflow.make(file) or known.get(file)
            if taken is None:
                raise BuildError(f"{file} was made before without being measured", f"use a folder other than {folder}")
            steps[file] = taken
            added.append(file)
        rows.append(_row(folder, plan, variant, steps, added))
        result = _result(plan, start, steps, rows)
        write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
        write_atomically(output.with_suffix(".md"), markdown(result).encode())
    return result


def _row(folder: Path, plan: Plan, variant: Variant, steps: Steps, added: list[str]) -> dict[str, Any]:
    """Return the row of one variant: time and memory of its steps, its engines, and the predicted memory."""
    records = read_records(folder / "engines" / variant.name)
    files = steps_of(plan, variant)
    return {
        "variant": variant.name,
        "resolution": variant["resolution"],
        "batch": variant.batch,
        "queries": variant["queries"],
        "quantize": variant.quantize,
        "export_seconds": round(sum(steps[file]["seconds"] for file in files["export"]), 1),
        "export_peak_mib": max(steps[file]["peak_mib"] for file in files["export"]),
        "quantize_seconds": round(sum(steps[file]["seconds"] for file in files["quantize"]), 1),
        "quantize_peak_mib": max((steps[file]["peak_mib"] for file in files["quantize"]), default=0.0),
        "added_seconds": round(sum(steps[file]["seconds"] for file in added), 1),
        "engines": {part: _engine(record) for part, record in records.items()},
        "memory": predict(records),
    }


def _engine(record: EngineRecord) -> dict[str, Any]:
    return {
        "graph": record.graph,
        "build_seconds": record.build_seconds,
        "build_peak_mib": record.build_peak_mib,
        "precision_got": record.precision_got,
        **record.sizes.model_dump(),
    }


def _result(plan: Plan, start: float, steps: Steps, rows: list[dict[str, Any]]) -> dict[str, Any]:
    calibration = plan.variants.settings.calibration
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "complete": len(rows) == len(plan.names),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "toolchain": plan.toolchain.model_dump(),
        "gpus": plan.variants.settings.build.gpus,
        "checkpoint": Path(plan.variants.settings.model.checkpoint).name,
        "calibration": {"frames": calibration.frames, "algorithm": calibration.algorithm},
        "start_seconds": start,
        "steps": steps,
        "rows": rows,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=Path, default=PROJECT / "docs/results/rtx.variants.yaml")
    parser.add_argument("--folder", type=Path, required=True, help="an empty work folder, or that of an earlier run")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/results/rtx.json")
    arguments = parser.parse_args()
    try:
        measure(arguments.variants, arguments.folder, arguments.output)
    except Sam3Error as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {arguments.output} and {arguments.output.with_suffix('.md')}")


if __name__ == "__main__":
    main()
