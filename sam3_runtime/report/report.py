"""The table of a work folder: one row a variant, from the JSON files that the jobs wrote.

Pure: reads records, verdicts and benchmarks, measures nothing, and writes ``bench/table.{md,csv,json}`` and
``bench/report.html``. The JSON contains the records behind each row (``variants``), and no path, host or user name, so
that tables of several runs can be merged elsewhere (``merged.py``).
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
from sam3_runtime.plan.paths import Step, chain
from sam3_runtime.plan.planning import Plan
from sam3_runtime.records.measurements import BenchResult, Measured, facts_of, shareable
from sam3_runtime.records.memory import MIB, predict, smallest_card
from sam3_runtime.records.records import CheckpointLock, EngineRecord, Toolchain, Verdict
from sam3_runtime.report.eight_bit import NOT_WORTH_IT, method_of, slower_than_sibling, warnings_of
from sam3_runtime.report.pages import folder_csv, folder_html, folder_markdown, is_bad
from sam3_runtime.report.tables import Row, marked


class GateError(Sam3Error):
    """A listed variant is missing, failed or rejected."""


_BESIDE_THE_VERDICT = ("bench", "baseline", "accuracy")

# --- the records of a variant -----------------------------------------------------------------------------------------


def gather(folder: Path, plan: Plan, name: str) -> Measured:
    """Read the records of one variant. Without a valid verdict, its ``status`` is ``failed`` or ``missing``."""
    directory = folder / "engines" / name
    read = {part: _read(EngineRecord, directory / f"{part}.engine.json") for part in plan.family.parts}
    records = {part: record for part, record in read.items() if record is not None}
    digests = {part: record.sha256 for part, record in records.items()}
    verdict: Verdict | None = _read(Verdict, directory / "verify.json")
    absent = [part for part in plan.family.parts if part not in records]
    known: dict[str, Any] = {}
    if absent:
        known = _unfinished(folder, plan, name, f"no engine for {', '.join(absent)}")
    elif verdict is None:
        known = _unfinished(folder, plan, name, f"no verdict: engines/{name}/verify.json")
    elif verdict.engines != digests:
        known = _unfinished(folder, plan, name, "its verdict is of other engines: verify again")
    else:
        known = verdict.model_dump(include={"status", "checks", "detections", "found", "accuracy"})
        known["reason"] = _shareable(verdict.reason, folder)
    if not absent:
        bench: BenchResult | None = _read(BenchResult, folder / "bench" / f"{name}.json")
        known |= {"predicted": predict(records), "engines": facts_of(records)}
        known["bench"] = bench if bench and bench.engines == digests else None
    return Measured(variant=name, **known)


def _read(kind: Any, path: Path) -> Any:
    try:
        return kind.read(path)
    except RecordError:
        return None


def _unfinished(folder: Path, plan: Plan, name: str, reason: str) -> dict[str, str]:
    """``failed`` with the message of the first job that wrote a log and no outputs, else ``missing``."""
    steps = [step for step in chain(plan, plan.variant(name)) if step.stage not in _BESIDE_THE_VERDICT]
    messages = {step.log: _error_in(folder / step.log) for step in steps if _was_interrupted(folder, step)}
    if not messages:
        return {"status": "missing", "reason": reason}
    log = next((log for log, message in messages.items() if message), next(iter(messages)))
    message = messages[log] or "its job ended without a message: it was killed, or ran out of memory"
    return {"status": "failed", "reason": f"{_shareable(message, folder)} ({log})"}


def _was_interrupted(folder: Path, step: Step) -> bool:
    return (folder / step.log).is_file() and not all((folder / file).exists() for file in step.files)


def _error_in(log: Path) -> str | None:
    """Return the error message in a job's log, or the last line of a traceback; None if there is neither."""
    lines = log.read_text(errors="replace").splitlines()
    message = next((line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")), None)
    if message is None and any(line.startswith(("Traceback", "Fatal Python error")) for line in lines):
        message = f"a defect: {next((line for line in reversed(lines) if line.strip()), '')}"
    return message


def _shareable(text: str, folder: Path) -> str:
    """Return a message without folders, except those inside the work folder."""
    return without_folders(text.replace(f"{folder.absolute()}/", ""))


# --- the row ----------------------------------------------------------------------------------------------------------


def row_of(found: Measured, others: Sequence[Measured]) -> Row:
    """Return the row of one variant among ``others``; unknown columns are left out."""
    row: Row = {"variant": found.variant, "status": found.status, "reason": found.reason}
    if found.engines:
        row |= engine_columns(found, others) | _memory_columns(found)
        row |= accuracy_columns(found) | _bench_columns(found)
    return row


def engine_columns(found: Measured, others: Sequence[Measured]) -> Row:
    """Return sizes, build time, precision and remarks on the engines of one variant among ``others``."""
    engines = found.engines.values()
    columns = {
        "engines_mib": round(sum(one["sizes"]["file"] for one in engines) / MIB, 1),
        "build_s": round(sum(one["build_seconds"] for one in engines), 1),
        "precision": "+".join(sorted({one["quantize"] or one["precision"] for one in engines})),
        "method": method_of(found),
        "note": NOT_WORTH_IT if slower_than_sibling(found, others) else None,
    }
    return {name: value for name, value in columns.items() if value is not None}


def _memory_columns(found: Measured) -> Row:
    """Predicted GPU memory, if the backend reports the sizes that it needs, and measured memory."""
    columns: Row = {}
    if found.predicted:
        total, without_text = found.predicted["with_text"], found.predicted["without_text"]
        columns = {key: total[key] for key in ("weights_mib", "scratch_mib", "buffers_mib")}
        for suffix, sizes in (("", total), ("_no_text", without_text if without_text != total else None)):
            if sizes:
                columns[f"vram{suffix}_mib"] = sizes["total_mib"]
                columns[f"card{suffix}"] = smallest_card(sizes["fits_gb"])
    if found.bench and found.bench.device_memory:
        columns["vram_measured_mib"] = round(found.bench.device_memory.peak_mib)
    return columns


def accuracy_columns(found: Measured) -> Row:
    """Return the results of the gate; ``cosine`` is the lowest of all outputs, and None if one is not a number."""
    if found.status not in ("passed", "rejected", "failed") or not found.checks:
        return {}
    values = {check.name: check.value for check in found.checks}
    cosines = [value for name, value in values.items() if name.endswith("cosine")]
    # `min` alone would drop a NaN that is not first.
    lowest = min(cosines, key=lambda value: -inf if isnan(value) else value, default=None)
    columns: Row = {"found": found.found, "expected": found.detections} if found.detections else {}
    columns["cosine"] = _rounded(lowest, 6)
    for spec in FAMILIES.values():
        columns |= {column: _rounded(values[name], 4) for name, column in spec.columns.items() if name in values}
    for spec in FAMILIES.values():
        for column, path in spec.accuracy.items():
            value: Any = found.accuracy
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                columns[column] = _rounded(value, 4)
    return columns


def _bench_columns(found: Measured) -> Row:
    if found.bench is None:
        return {}
    columns: Row = {"memory_mib": round(found.bench.memory_peak_mib)}
    fewest = min(found.bench.cameras, key=lambda camera: camera.cameras)
    prefix = "" if fewest.cameras == 1 else f"{fewest.cameras}cam_"
    columns |= {f"{prefix}{stage}_ms": _rounded(latency.median, 2) for stage, latency in fewest.stages.items()}
    for camera in found.bench.cameras:
        columns[f"{camera.cameras}cam_ms"] = marked(f"{camera.end_to_end.median:.1f}", camera.stable)
        columns[f"{camera.cameras}cam_fps"] = marked(f"{camera.fps_per_camera:.2f}", camera.stable)
    return columns


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or isnan(value) else round(value, digits)


# --- the table --------------------------------------------------------------------------------------------------------


def make_table(folder: Path, plan: Plan, partial: bool = False) -> dict[str, Any]:
    """Return the table as plain data: conditions, rows, and the records behind them."""
    toolchain: Toolchain | None = _read(Toolchain, folder / "toolchain.json")
    lock: CheckpointLock | None = _read(CheckpointLock, folder / "checkpoint.lock")
    found = [gather(folder, plan, name) for name in plan.names]
    settings = [engine["settings"] for one in found for engine in one.engines.values()]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "measured": sorted({one.bench.date for one in found if one.bench}),
        "partial": partial,
        "device": sorted({one.bench.device for one in found if one.bench}),
        "toolchain": toolchain.model_dump() if toolchain else None,
        "gpus": sorted({str(gpu) for one in settings for gpu in one.get("gpus", [])}, key=float),
        "checkpoint": _checkpoint(lock) if lock else None,
        "rows": [row_of(one, found) for one in found],
        "warnings": warnings_of(found),
        "variants": [json.loads(one.model_dump_json()) for one in found],
    }


def _checkpoint(lock: CheckpointLock) -> dict[str, Any]:
    return {"name": shareable(lock.checkpoint), "digest": lock.digest} | ({"random": True} if lock.random else {})


def write_tables(folder: Path, plan: Plan, partial: bool = False) -> dict[str, Any]:
    """Write ``bench/table.json``, ``.md``, ``.csv`` and ``bench/report.html``, and return the table."""
    table = make_table(folder, plan, partial)
    files = {
        "table.json": json.dumps(table, indent=1) + "\n",
        "table.md": folder_markdown(table),
        "table.csv": folder_csv(table),
        "report.html": folder_html(table),
    }
    for name, text in files.items():
        write_atomically(folder / "bench" / name, text.encode())
    return table


def judge(folder: Path, plan: Plan) -> None:
    """Write and print the table. Raises :class:`GateError` if a listed variant is missing, failed or rejected."""
    table = write_tables(folder, plan)
    print(f"\n{folder_markdown(table)}")
    rows, total = table["rows"], counted(len(plan.names), "variant")
    bad = [f"  {row['variant']}: {row['status']}: {row['reason']}" for row in rows if is_bad(row)]
    if bad:
        raise GateError(
            "\n".join([f"{len(bad)} of {total} did not pass:", *bad]),
            "verify.json has every comparison; the limits are `gate:` in variants.yaml",
        )
    unverified = sum(row["status"] == "unverified" for row in rows)
    if unverified:
        print(f"Built, not verified: {unverified} of {total}; verify them on the machine that runs them.")
    else:
        print(f"{'All ' if len(rows) > 1 else ''}{total} passed.")
    print("The table is bench/table.md in the work folder.")
