"""The table of a work folder: one row a variant, from the JSON files that the jobs left, and nothing else.

Pure: reads records, verdicts and benchmarks, writes ``bench/table.{md,csv,json}`` and ``bench/report.html``, and
judges. It never measures. The JSON has everything that a row is made of (``variants``), and no path, host or user
name, so that tables of several runs can be joined elsewhere (``joined.py``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from math import inf, isnan
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import RecordError, Sam3Error
from sam3_runtime.core.files import without_folders, write_atomically
from sam3_runtime.core.wording import counted
from sam3_runtime.families import FAMILIES
from sam3_runtime.measure.memory import MIB, predict, smallest_card
from sam3_runtime.plan.paths import Step, chain
from sam3_runtime.plan.planning import Plan
from sam3_runtime.records.measurements import BenchResult, Measured, facts_of, shareable
from sam3_runtime.records.records import CheckpointLock, EngineRecord, Toolchain, Verdict
from sam3_runtime.report.comparisons import method_of, notes_of, warnings_of
from sam3_runtime.report.text import Row, as_csv, as_html, is_bad, markdown


class GateError(Sam3Error):
    """A listed variant is missing, failed or rejected."""


_NOT_JUDGED = ("bench", "baseline", "accuracy")

# --- what there is of a variant ---------------------------------------------------------------------------------------


def gather(folder: Path, plan: Plan, name: str) -> Measured:
    """What is known of one variant. ``status`` is that of its verdict, or ``failed`` or ``missing`` without one."""
    steps = [step for step in chain(plan, plan.variant(name)) if step.stage not in _NOT_JUDGED]
    directory = folder / "engines" / name
    read = {part: _read(EngineRecord, directory / f"{part}.engine.json") for part in plan.family.parts}
    records = {str(part): record for part, record in read.items() if record is not None}
    absent = [part for part in plan.family.parts if part not in records]
    if absent:
        return _without_verdict(folder, name, steps, f"no engine for {', '.join(absent)}")
    digests = {part: record.sha256 for part, record in records.items()}
    bench: BenchResult | None = _read(BenchResult, folder / "bench" / f"{name}.json")
    found = _verdict(folder, name, steps, digests)
    return found.model_copy(
        update={
            "predicted": predict(records),
            "engines": facts_of(records),
            "bench": bench if bench and bench.engines == digests else None,
        }
    )


def _read(kind: Any, path: Path) -> Any:
    try:
        return kind.read(path)
    except RecordError:
        return None


def _without_verdict(folder: Path, name: str, steps: Sequence[Step], what: str) -> Measured:
    """``failed`` with what the first job said that left a log and no files, else ``missing``."""
    undone = [step for step in steps if not all((folder / file).exists() for file in step.files)]
    said = {step.log: _end_of(folder / step.log) for step in undone if (folder / step.log).is_file()}
    if not said:
        return Measured(variant=name, status="missing", reason=what)
    log = next((log for log, message in said.items() if message), next(iter(said)))
    message = said[log] or "its job ended without a message: it was killed, or ran out of memory"
    return Measured(variant=name, status="failed", reason=f"{_shown(message, folder)} ({log})")


def _end_of(log: Path) -> str | None:
    """The message of the job of this log, or the last line of its traceback; None where it ended without either."""
    lines = log.read_text(errors="replace").splitlines()
    message = next((line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")), None)
    if message is None and any(line.startswith(("Traceback", "Fatal Python error")) for line in lines):
        message = f"a defect: {next((line for line in reversed(lines) if line.strip()), '')}"
    return message


def _shown(text: str, folder: Path) -> str:
    """A message that may be shared; what lies in the work folder keeps its place there."""
    return without_folders(text.replace(f"{folder.absolute()}/", ""))


def _verdict(folder: Path, name: str, steps: Sequence[Step], digests: dict[str, str]) -> Measured:
    verdict: Verdict | None = _read(Verdict, folder / "engines" / name / "verify.json")
    if verdict is None:
        return _without_verdict(folder, name, steps, f"no verdict: engines/{name}/verify.json")
    if verdict.engines != digests:
        return _without_verdict(folder, name, steps, "its verdict is about other engines: verify again")
    reason = _shown(verdict.reason, folder)
    return Measured(
        variant=name, status=verdict.status, reason=reason, checks=verdict.checks, detections=verdict.detections,
        found=verdict.found, accuracy=verdict.accuracy,
    )  # fmt: skip


# --- the row ----------------------------------------------------------------------------------------------------------


def row_of(found: Measured) -> Row:
    """The columns of one variant; those that nothing is known of are left out."""
    row: Row = {"variant": found.variant, "status": found.status, "reason": found.reason}
    if not found.engines:
        return row
    engines = found.engines.values()
    row["engines_mib"] = round(sum(one["sizes"]["file"] for one in engines) / MIB, 1)
    row["build_s"] = round(sum(one["build_seconds"] for one in engines), 1)
    row["precision"] = "+".join(sorted({one["quantize"] or one["precision"] for one in engines}))
    if method := method_of(found):
        row["method"] = method
    return row | _memory_columns(found) | accuracy_columns(found) | _bench_columns(found.bench)


def _memory_columns(found: Measured) -> Row:
    """What the variant will take on a GPU, where its backend tells what that is made of, and what it took."""
    columns: Row = {}
    if found.predicted:
        whole, kept = found.predicted["with_text"], found.predicted["without_text"]
        columns = {key: whole[key] for key in ("weights_mib", "scratch_mib", "buffers_mib")}
        columns |= {"vram_mib": whole["total_mib"]} | ({"vram_no_text_mib": kept["total_mib"]} if kept != whole else {})
        columns |= {"card": smallest_card(whole["fits_gb"])}
        columns |= {"card_no_text": smallest_card(kept["fits_gb"])} if kept != whole else {}
    if found.bench and found.bench.device_memory:
        columns["vram_measured_mib"] = round(found.bench.device_memory.peak_mib)
    return columns


def accuracy_columns(found: Measured) -> Row:
    """What the gate saw. ``cosine`` is the lowest of all outputs, and nothing where one has none."""
    if found.status not in ("passed", "rejected", "failed") or not found.checks:
        return {}
    worst = {check.name: check.value for check in found.checks}
    cosines = [value for name, value in worst.items() if name.endswith("cosine")]
    # `min` alone would drop a NaN that is not first.
    lowest = min(cosines, key=lambda value: -inf if isnan(value) else value, default=None)
    counts: Row = {"found": found.found, "expected": found.detections} if found.detections else {}
    columns = {name: column for spec in FAMILIES.values() for name, column in spec.columns.items()}
    held = {column: _rounded(worst[name], 4) for name, column in columns.items() if name in worst}
    return counts | {"cosine": _rounded(lowest, 6)} | held | _data_set_columns(found.accuracy)


def _data_set_columns(accuracy: dict[str, Any] | None) -> Row:
    """What was measured on a data set, where there is one."""
    columns: Row = {}
    for spec in FAMILIES.values():
        for column, place in spec.accuracy.items():
            value: Any = accuracy
            for key in place:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                columns[column] = _rounded(value, 4)
    return columns


def _bench_columns(result: BenchResult | None) -> Row:
    if result is None:
        return {}
    columns: Row = {"memory_mib": round(result.memory_peak_mib)}
    fewest = min(result.cameras, key=lambda camera: camera.cameras)
    of = "" if fewest.cameras == 1 else f"{fewest.cameras}cam_"
    columns |= {f"{of}{stage}_ms": _rounded(latency.median, 2) for stage, latency in fewest.stages.items()}
    for camera in result.cameras:
        mark = "" if camera.stable else " (unstable)"
        columns[f"{camera.cameras}cam_ms"] = f"{camera.end_to_end.median:.1f}{mark}"
        columns[f"{camera.cameras}cam_fps"] = f"{camera.fps_per_camera:.2f}{mark}"
    return columns


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or isnan(value) else round(value, digits)


# --- the table --------------------------------------------------------------------------------------------------------


def make_table(folder: Path, plan: Plan, partial: bool = False) -> dict[str, Any]:
    """The whole table as plain data: what it was measured on and with, the rows, and what they are made of."""
    toolchain: Toolchain | None = _read(Toolchain, folder / "toolchain.json")
    lock: CheckpointLock | None = _read(CheckpointLock, folder / "checkpoint.lock")
    found = [gather(folder, plan, name) for name in plan.names]
    settings = [engine["settings"] for one in found for engine in one.engines.values()]
    gpus = {str(gpu) for one in settings for gpu in one.get("gpus", [])}
    rows = [row_of(one) for one in found]
    for place, note in notes_of(found).items():
        rows[place]["note"] = note
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "measured": sorted({one.bench.date for one in found if one.bench}),
        "partial": partial,
        "device": sorted({one.bench.device for one in found if one.bench}),
        "toolchain": toolchain.model_dump() if toolchain else None,
        "gpus": sorted(gpus, key=float),
        "checkpoint": _checkpoint(lock) if lock else None,
        "rows": rows,
        "warnings": warnings_of(found),
        "variants": [json.loads(one.model_dump_json()) for one in found],
    }


def _checkpoint(lock: CheckpointLock) -> dict[str, Any]:
    return {"name": shareable(lock.checkpoint), "digest": lock.digest} | ({"random": True} if lock.random else {})


def write_tables(folder: Path, plan: Plan, partial: bool = False) -> dict[str, Any]:
    """Write ``bench/table.json``, ``.md``, ``.csv`` and ``bench/report.html`` and return the table."""
    table = make_table(folder, plan, partial)
    bench = folder / "bench"
    write_atomically(bench / "table.json", (json.dumps(table, indent=1) + "\n").encode())
    write_atomically(bench / "table.md", markdown(table).encode())
    write_atomically(bench / "table.csv", as_csv(table).encode())
    write_atomically(bench / "report.html", as_html(table).encode())
    return table


def judge(folder: Path, plan: Plan) -> None:
    """Write the table, print it, and raise :class:`GateError` where a listed variant is missing, failed or rejected."""
    table, names = write_tables(folder, plan), plan.names
    print(f"\n{markdown(table)}")
    bad = [row for row in table["rows"] if is_bad(row)]
    if bad:
        listed = "\n".join(f"  {row['variant']}: {row['status']}: {row['reason']}" for row in bad)
        raise GateError(
            f"{len(bad)} of {counted(len(names), 'variant')} did not pass:\n{listed}",
            "verify.json has every comparison; the limits are `gate:` in variants.yaml",
        )
    unjudged = [row["variant"] for row in table["rows"] if row["status"] == "unverified"]
    if unjudged:
        built = f"{len(unjudged)} of {counted(len(names), 'variant')}"
        print(f"Built and not judged: {built}, as that needs the machine that runs them.")
    else:
        print(f"{'All ' if len(names) > 1 else ''}{counted(len(names), 'variant')} passed.")
    print("The table is in the work folder: bench/table.md.")
