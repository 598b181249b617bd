"""The table: one row a variant, from the JSON files that the jobs left, and nothing else.

Pure: reads records, verdicts and benchmarks of a work folder, writes ``bench/table.{md,csv,json}`` and
``bench/report.html``, and judges. It never measures.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sam3_runtime.config import BenchResult, CheckpointLock, EngineRecord, Toolchain, Verdict
from sam3_runtime.contract import PART_NAMES
from sam3_runtime.errors import RecordError, Sam3Error
from sam3_runtime.files import write_atomically
from sam3_runtime.gpus import names_of
from sam3_runtime.memory import CUDA_CONTEXT_MIB, MIB, predict, smallest_card
from sam3_runtime.variants import Variant

Row = dict[str, Any]


class GateError(Sam3Error):
    """A listed variant is missing, failed or rejected."""


def row(folder: Path, name: str) -> Row:
    """What is known of one variant. ``status`` is that of its verdict, or ``failed`` or ``missing`` without one."""
    directory = folder / "engines" / name
    found: Row = {"variant": name, "status": "missing", "reason": "not built yet"}
    records = {part: _read(EngineRecord, directory / f"{part}.engine.json") for part in PART_NAMES}
    absent = [part for part, record in records.items() if record is None]
    if absent:
        return found | _missing(folder, name, f"no engine for {', '.join(absent)}")
    known = [record for record in records.values() if record is not None]
    found["engines_mib"] = round(sum(record.sizes.file for record in known) / MIB, 1)
    found["build_s"] = round(sum(record.build_seconds for record in known), 1)
    found["precision"] = "+".join(sorted({record.quantize or record.precision for record in known}))
    digests = {record.part: record.sha256 for record in known}
    found |= _memory_columns({record.part: record for record in known})
    return found | _verdict_columns(folder, name, digests) | _bench_columns(folder / "bench" / f"{name}.json", digests)


def _memory_columns(records: dict[str, EngineRecord]) -> Row:
    """What the variant will take on a GPU, where its backend tells what that is made of."""
    predicted = predict(records)
    if predicted is None:
        return {}
    whole, kept = predicted["with_text"], predicted["without_text"]
    return {
        **{key: whole[key] for key in ("weights_mib", "scratch_mib", "buffers_mib")},
        "vram_mib": whole["total_mib"],
        "vram_no_text_mib": kept["total_mib"],
        "card": smallest_card(whole["fits_gb"]),
        "card_no_text": smallest_card(kept["fits_gb"]),
    }


def _read(kind: Any, path: Path) -> Any:
    try:
        return kind.read(path)
    except RecordError:
        return None


def _missing(folder: Path, name: str, what: str) -> Row:
    """``failed`` with the message of the job that ended with one, else ``missing``."""
    for log in _logs(folder / "logs", Variant.from_name(name)):
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        message = next((line for line in lines if line.startswith("Error: ")), "")
        if message:
            return {"status": "failed", "reason": f"{message.removeprefix('Error: ')} ({log.relative_to(folder)})"}
    return {"status": "missing", "reason": what}


def _logs(logs: Path, variant: Variant) -> Iterator[Path]:
    """The logs of the jobs that a variant is made by, in the order in which they run."""
    graphs = (f"vision-encoder{variant.suffix}", "geometry-encoder", f"decoder_q{variant.queries}")
    yield logs / "lock_checkpoint.log"
    yield logs / "copy_tokenizer.log"
    yield logs / "export/text-encoder.log"
    yield from (logs / f"export/r{variant.resolution}/{graph}.log" for graph in ("vision-encoder", *graphs))
    yield logs / f"calibration/r{variant.resolution}.log"
    yield logs / f"quantize/r{variant.resolution}{variant.suffix}.log"
    yield logs / f"build/b{variant.batch}/text-encoder.log"
    yield from (logs / f"build/b{variant.batch}_r{variant.resolution}/{graph}.log" for graph in graphs)
    yield from (logs / f"reference/r{variant.resolution}.log", logs / f"configure/{variant.name}.log")
    yield logs / f"verify/{variant.name}.log"


def _verdict_columns(folder: Path, name: str, digests: dict[str, str]) -> Row:
    verdict: Verdict | None = _read(Verdict, folder / "engines" / name / "verify.json")
    if verdict is None:
        return _missing(folder, name, f"no verdict: engines/{name}/verify.json")
    if verdict.engines != digests:
        return _missing(folder, name, "its verdict is about other engines: verify again")
    if verdict.status == "unverified":
        return {"status": verdict.status, "reason": verdict.reason}
    worst = {check.name: check.value for check in verdict.checks}
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "detections": verdict.detections,
        "cosine": _rounded(min((v for k, v in worst.items() if k.endswith("cosine")), default=None), 6),
        "agreement": _rounded(worst.get("agreement"), 4),
        "mask_iou": _rounded(worst.get("mask IoU"), 4),
    }


def _bench_columns(path: Path, digests: dict[str, str]) -> Row:
    result: BenchResult | None = _read(BenchResult, path)
    if result is None or result.engines != digests:
        return {}
    columns: Row = {"memory_mib": round(result.memory_peak_mib)}
    first = result.cameras[0]
    columns |= {f"{stage}_ms": _rounded(latency.median, 2) for stage, latency in first.stages.items()}
    for camera in result.cameras:
        mark = "" if camera.stable else " (unstable)"
        columns[f"{camera.cameras}cam_ms"] = f"{camera.end_to_end.median:.1f}{mark}"
        columns[f"{camera.cameras}cam_fps"] = f"{camera.fps_per_camera:.2f}{mark}"
    return columns


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


# --- the table --------------------------------------------------------------------------------------------------------


def make_table(folder: Path, names: Sequence[str], partial: bool = False) -> dict[str, Any]:
    """The whole table as plain data: what it was measured on and with, and the rows."""
    toolchain: Toolchain | None = _read(Toolchain, folder / "toolchain.json")
    lock: CheckpointLock | None = _read(CheckpointLock, folder / "checkpoint.lock")
    results = [result for name in names if (result := _read(BenchResult, folder / "bench" / f"{name}.json"))]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "partial": partial,
        "device": sorted({result.device for result in results}),
        "toolchain": toolchain.model_dump() if toolchain else None,
        "gpus": _compiled_for(folder, names),
        "checkpoint": {"name": lock.checkpoint, "digest": lock.digest} if lock else None,
        "rows": [row(folder, name) for name in names],
    }


def _compiled_for(folder: Path, names: Sequence[str]) -> list[str]:
    """The GPU generations that the engines were compiled for, where their backend compiles for generations."""
    paths = [folder / "engines" / name / "decoder.engine.json" for name in names]
    records: list[EngineRecord] = [record for path in paths if (record := _read(EngineRecord, path))]
    return sorted({str(gpu) for record in records for gpu in record.settings.get("gpus", [])}, key=float)


def write_tables(folder: Path, names: Sequence[str], partial: bool = False) -> dict[str, Any]:
    """Write ``bench/table.json``, ``.md``, ``.csv`` and ``bench/report.html`` and return the table."""
    table = make_table(folder, names, partial)
    bench = folder / "bench"
    write_atomically(bench / "table.json", (json.dumps(table, indent=2) + "\n").encode())
    write_atomically(bench / "table.md", markdown(table).encode())
    write_atomically(bench / "table.csv", _csv(table).encode())
    write_atomically(bench / "report.html", _html(table).encode())
    return table


def _columns(table: dict[str, Any]) -> list[str]:
    """Columns that any row has, in order of first appearance; the reason, being prose, last."""
    seen = dict.fromkeys(column for row in table["rows"] for column in row)
    return [column for column in seen if column != "reason"] + ["reason"]


def _cell(value: Any) -> str:
    return "–" if value is None else str(value).replace("\n", " ")


def _conditions(table: dict[str, Any]) -> str:
    toolchain = table["toolchain"] or {}
    checkpoint = table["checkpoint"] or {}
    parts = [
        f"device: {', '.join(table['device']) or 'not measured'}",
        f"backend: {toolchain.get('backend')} {toolchain.get('version')}",
        f"checkpoint: {checkpoint.get('name')} ({str(checkpoint.get('digest'))[:12]})",
        f"date: {table['date']}",
    ]
    if table["gpus"]:
        parts.insert(2, f"compiled for: {names_of(table['gpus'])}")
    if toolchain.get("driver"):
        parts.insert(1, f"driver: {toolchain['driver']}")
    if table["partial"]:
        parts.insert(0, "**partial: the run ended with an error**")
    return "; ".join(parts)


_MEMORY = ("weights_mib", "scratch_mib", "buffers_mib", "vram_mib", "vram_no_text_mib", "card", "card_no_text")
_MEMORY_LEGEND = (
    "Memory on the card is **predicted** from the engines' records, in MiB: `vram_mib` is weights, one block of "
    "scratch that the four engines take in turn, and buffers at the largest batch; `vram_no_text_mib` once prompts are "
    "encoded and the text encoder is released. `card` is the smallest of 6, 8, 12, 16 and 24 GB that it fits in, with "
    f"{CUDA_CONTEXT_MIB} MiB assumed for the CUDA context."
)
_NOT_MEASURED = "**not run on any RTX card**: accuracy and speed are not measured; that needs one."
_ACCURACY = ("precision", "detections", "cosine", "agreement", "mask_iou", "engines_mib", "build_s")
_LEGEND = (
    "`cosine` is the lowest of all outputs against float32 PyTorch, `agreement` the share of detections that both "
    "keep, `mask_iou` the mean over those. Stage times are medians in ms for one camera. `Ncam_ms` is one round of N "
    "images, one from each camera, from preprocessing to postprocessing, images decoded beforehand; `Ncam_fps` is "
    "rounds per second. `memory_mib` is the process's largest resident set, `engines_mib` the sum of the engine files."
)


def markdown(table: dict[str, Any]) -> str:
    """Narrow tables, accuracy, memory and speed, and the reasons of what did not pass."""
    rows = table["rows"]
    columns = [column for column in _columns(table) if column not in ("variant", "status", "reason")]
    parts = [f"# Engine variants\n\n{_conditions(table)}"]
    parts.append(_grid(rows, ["variant", "status", *(column for column in columns if column in _ACCURACY)]))
    memory = [column for column in columns if column in _MEMORY]
    if memory:
        parts += [_grid(rows, ["variant", *memory]), _MEMORY_LEGEND]
    speed = [column for column in columns if column not in (*_ACCURACY, *_MEMORY)]
    if speed:
        parts.append(_grid(rows, ["variant", *speed]))
    elif any(row["status"] == "unverified" for row in rows):
        parts.append(_NOT_MEASURED)
    parts += [f"- {row['variant']} is **{row['status']}**: {_cell(row['reason'])}" for row in rows if _is_bad(row)]
    parts += [f"- built, not judged: {reason}" for reason in dict.fromkeys(_reasons(rows, "unverified"))]
    return "\n\n".join([*parts, _LEGEND]) + "\n"


def _reasons(rows: Sequence[Row], status: str) -> list[str]:
    return [_cell(row["reason"]) for row in rows if row["status"] == status]


def _grid(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table whose columns line up as text too."""
    cells = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _is_bad(row: Row) -> bool:
    """Whether a variant fails the run. What was built for another machine is not bad: it is not judged."""
    return row["status"] not in ("passed", "unverified")


def _csv(table: dict[str, Any]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(table), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table["rows"])
    return buffer.getvalue()


def _html(table: dict[str, Any]) -> str:
    columns = _columns(table)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    rows = "".join(
        f'<tr class="{html.escape(row["status"])}">'
        + "".join(f"<td>{html.escape(_cell(row.get(column)))}</td>" for column in columns)
        + "</tr>\n"
        for row in table["rows"]
    )
    style = (
        "body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "th,td{padding:.3em .6em;border:1px solid #ccc;text-align:right}td:first-child,th:first-child,td:last-child"
        "{text-align:left}tr.rejected,tr.failed{background:#fdd}tr.missing{color:#888}"
    )
    conditions = html.escape(_conditions(table).replace("**", ""))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Engine variants</title><style>{style}</style>\n'
        f"<h1>Engine variants</h1><p>{conditions}</p>\n<table><tr>{head}</tr>\n{rows}</table>"
        f"<p>{html.escape(_LEGEND)}</p></html>\n"
    )


def judge(folder: Path, names: Sequence[str]) -> None:
    """Write the table, print it, and raise :class:`GateError` where a listed variant is missing, failed or rejected."""
    table = write_tables(folder, names)
    print(f"\n{markdown(table)}")
    bad = [row for row in table["rows"] if _is_bad(row)]
    if bad:
        listed = "\n".join(f"  {row['variant']}: {row['status']}: {row['reason']}" for row in bad)
        raise GateError(
            f"{len(bad)} of {len(names)} variants did not pass:\n{listed}",
            "verify.json has every comparison; the limits are `gate:` in variants.yaml",
        )
    unjudged = [row["variant"] for row in table["rows"] if row["status"] == "unverified"]
    if unjudged:
        print(
            f"{len(unjudged)} of {len(names)} variants are built and not judged: that needs the machine that runs them."
        )
    else:
        print(f"All {len(names)} variants passed.")
    print("The table is in bench/table.md.")
