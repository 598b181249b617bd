"""Joins tables of several runs: ``bench/table.json`` of each, files of ``sam3-runtime bench``, and baselines.

Reads JSON alone, refuses what cannot stand in one table, and gives rows as plain data; ``joined_text.py`` writes them.
The result holds everything that it was made from, so that it can be joined again. Pure.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import write_atomically
from sam3_runtime.families import FAMILIES, main_part
from sam3_runtime.families.base import RESOLUTION
from sam3_runtime.measure.memory import MIB
from sam3_runtime.records.measurements import Baseline, BenchResult, Measured, Rounds
from sam3_runtime.report.comparisons import (
    eight_bit_share,
    main_engine,
    method_of,
    name_of,
    notes_of,
    precision_used,
    warnings_of,
)
from sam3_runtime.report.joined_text import markdown
from sam3_runtime.report.report import accuracy_columns
from sam3_runtime.report.text import Row, percent


@dataclass
class Sources:
    """What the files hold, and which file each thing is from."""

    variants: list[Measured] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    file_of: dict[int, str] = field(default_factory=dict)  # by id(): records compare by value

    def results(self) -> Iterator[tuple[str, BenchResult]]:
        for one in self.variants:
            if one.bench:
                yield self.file_of[id(one)], one.bench


def read_sources(files: Sequence[Path]) -> Sources:
    """Read every file, whatever of the three it is. :class:`RecordError` names one that is none of them."""
    found = Sources()
    for file in files:
        for variant in _read_one(file, found.baselines, found.file_of):
            found.variants.append(variant)
            found.file_of[id(variant)] = str(file)
    found.variants = _measured_alone(found.variants)
    return found


def _measured_alone(variants: Sequence[Measured]) -> list[Measured]:
    """Without those of which another file has a measurement and this one has none; each in the place of the first."""
    measured = {name_of(one) for one in variants if one.bench}
    names = list(dict.fromkeys(map(name_of, variants)))
    kept = [one for one in variants if one.bench or name_of(one) not in measured]
    return sorted(kept, key=lambda one: names.index(name_of(one)))


def _read_one(file: Path, baselines: list[Baseline], file_of: dict[int, str]) -> list[Measured]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{file} is missing", "name bench/table.json of a work folder, or a baseline") from None
    except ValueError as error:
        raise RecordError(f"{file} is no JSON: {error}", "name bench/table.json of a work folder") from None
    try:
        ways = raw.get("baselines", []) if "variants" in raw else [raw] if "ways" in raw else []
        for one in ways:
            baselines.append(Baseline.model_validate(one))
            file_of[id(baselines[-1])] = str(file)
        if "variants" in raw:
            return [Measured.model_validate(one) for one in raw["variants"]]
        if ways:
            return []
        if "bench" in raw:
            return [Measured.model_validate({key: raw[key] for key in Measured.model_fields if key in raw})]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        raise RecordError(
            f"{file} was written by another version: {place}: {first['msg']}", "measure again: snakemake bench_all"
        ) from None
    raise RecordError(
        f"{file} holds no measurement that can be joined",
        "name bench/table.json, a file of `sam3-runtime bench`, or bench/baselines/r….json",
    )


def check_agreement(found: Sources) -> None:
    """:class:`RecordError` where files are of different GPUs, TensorRT versions or checkpoints, or a row is twice."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)  # a checkpoint by its digest: names are as people type them
    for file, bench in found.results():
        seen["GPUs"][bench.device] = file
        seen["backends"][f"{bench.toolchain.backend} {bench.toolchain.version}"] = file
        seen["checkpoints"][bench.checkpoint_digest[:12]] = f"{file} ({bench.checkpoint})"
    for baseline in found.baselines:
        file = found.file_of[id(baseline)]
        seen["GPUs"].setdefault(baseline.device, file)
        seen["checkpoints"].setdefault(baseline.checkpoint_digest[:12], f"{file} ({baseline.checkpoint})")
    for what, values in seen.items():
        if len(values) > 1:
            listed = "\n".join(f"  {value}: {file}" for value, file in values.items())
            raise RecordError(f"these files are of different {what}:\n{listed}", "make a table of each")
    rows: dict[str, str] = {}
    for one in found.variants:
        name, file = name_of(one), found.file_of[id(one)]
        if name in rows:
            raise RecordError(f"{name} is in {rows[name]} and in {file}", "name one of the two files")
        rows[name] = file
    if not rows:
        raise RecordError("none of these files holds a variant", "name bench/table.json of a work folder")


def join(files: Sequence[Path]) -> dict[str, Any]:
    """The joined table of ``files`` as plain data."""
    found = read_sources(files)
    check_agreement(found)
    results = [bench for _, bench in found.results()]
    notes = notes_of(found.variants)
    rows = [_row(one, found.baselines) for one in found.variants]
    for place, note in notes.items():
        rows[place]["accuracy"][0]["note"] = note
    return {
        "device": sorted({bench.device for bench in results}),
        "driver": sorted({bench.driver for bench in results if bench.driver}),
        "backend": sorted({f"{bench.toolchain.backend} {bench.toolchain.version}" for bench in results}),
        "checkpoint": {"name": results[0].checkpoint, "digest": results[0].checkpoint_digest} if results else None,
        "dates": sorted({bench.date for bench in results}),
        "prompts": sorted({bench.prompts for bench in results}),
        "clocks": _clocks(results),
        "rows": rows,
        "warnings": warnings_of(found.variants),
        "ways": [_way_row(baseline, way) for baseline in found.baselines for way in baseline.ways],
        "variants": [one.model_dump(mode="json") for one in found.variants],
        "baselines": [one.model_dump(mode="json") for one in found.baselines],
    }


def write_joined(files: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write ``output`` with the endings .json and .md, and return the table."""
    table = join(files)
    write_atomically(output.with_name(f"{output.name}.json"), (json.dumps(table, indent=1) + "\n").encode())
    write_atomically(output.with_name(f"{output.name}.md"), markdown(table).encode())
    return table


def _clocks(results: Sequence[BenchResult]) -> dict[str, list[float]]:
    """Lowest and highest median over the runs, of each reading that any has."""
    readings = [bench.clocks.during for bench in results if bench.clocks]
    names = ("sm_mhz", "memory_mhz", "temperature_c", "power_w")
    columns = {name: [v for one in readings if (v := getattr(one, name)) is not None] for name in names}
    return {name: [min(values), max(values)] for name, values in columns.items() if values}


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(found: Measured, baselines: Sequence[Baseline]) -> dict[str, Any]:
    """One variant: its name and status, and its rows in each section of the page (``joined_text.SECTIONS``)."""
    row: dict[str, Any] = {"variant": name_of(found), "status": found.status, "reason": found.reason}
    row |= {"accuracy": [_accuracy(found)], "memory": [_memory(found)]}
    if found.bench is None:
        return row
    row |= {"speed": _speed(found.bench), "parts": [_parts(found.bench)], "graphs": [_gain(found.bench)]}
    resolution = _resolution_of(found.variant)
    beside = [line for one in baselines if one.resolution == resolution for line in _beside(found.bench, one)]
    return row | {"beside": beside}


def _accuracy(found: Measured) -> Row:
    columns: Row = {"status": found.status}
    if method := method_of(found):
        columns["method"] = method
    if found.engines:
        share = eight_bit_share(found)
        columns["vision precision"] = precision_used(main_engine(found))
        columns |= {} if share is None else {"8-bit share": percent(share)}
        columns["engines MiB"] = round(sum(one["sizes"]["file"] for one in found.engines.values()) / MIB)
        columns["build s"] = round(sum(one["build_seconds"] for one in found.engines.values()))
    return columns | accuracy_columns(found)


def _memory(found: Measured) -> Row:
    columns: Row = {}
    if found.predicted:
        whole, kept = found.predicted["with_text"], found.predicted["without_text"]
        columns |= {key.removesuffix("_mib"): kept[key] for key in ("weights_mib", "scratch_mib", "buffers_mib")}
        columns |= {"predicted": kept["total_mib"], "predicted, with text": whole["total_mib"]}
    measured = found.bench.device_memory if found.bench else None
    if measured:
        columns |= {"loaded": measured.loaded_mib, "ready": measured.ready_mib, "peak": measured.peak_mib}
        columns["measured as"] = measured.method
    return columns


def _resolution_of(variant: str) -> int | None:
    """As its name has it; None for what is no variant's name."""
    matches = (spec.name_pattern.fullmatch(variant) for spec in FAMILIES.values())
    return next((int(match[RESOLUTION]) for match in matches if match), None)


def _mark(stable: bool) -> str:
    return "" if stable else " (unstable)"


def _speed(bench: BenchResult) -> list[Row]:
    """Per image, a row for each number of cameras."""
    rows = []
    for camera in bench.cameras:
        count, mark = camera.cameras, _mark(camera.stable)
        row: Row = {"cameras": count}
        row |= {stage: f"{taken.median / count:.2f}" for stage, taken in camera.stages.items()}
        row["end to end"] = f"{camera.end_to_end.median / count:.2f}{mark}"
        row["round"] = f"{camera.end_to_end.median:.2f}"
        row |= {name: f"{getattr(camera.end_to_end, name):.2f}" for name in ("mean", "p95", "p99")}
        row["FPS a camera"] = f"{camera.fps_per_camera:.2f}{mark}"
        row["masks kept"] = camera.masks_kept
        rows.append(row)
    return rows


def _parts(bench: BenchResult) -> Row:
    """Each part alone: those without prompts an image, the others a call."""
    columns: Row = {}
    for part in bench.parts:
        shown = f"{part.latency.median if part.prompts else part.per_image:.2f}{_mark(part.stable)}"
        columns[_part_name(part.part, part.images, part.prompts)] = shown
    return columns


def _part_name(part: str, images: int, prompts: int) -> str:
    known = next(spec.parts[part] for spec in FAMILIES.values() if part in spec.parts)
    return known.label.format(part=part, images=images, prompts=prompts)


def _gain(bench: BenchResult) -> Row:
    """What CUDA graphs save, in per cent of the time without them."""
    off: Rounds | None = bench.without.get("cuda_graphs")
    if off is None:
        return {}
    columns: Row = {}
    for camera in bench.cameras:
        before = off.camera(camera.cameras)
        if before:
            columns[f"round of {camera.cameras}"] = _saved(camera.end_to_end.median, before.end_to_end.median)
    for part in bench.parts:
        alone = off.part(part.part, part.images, part.prompts)
        if alone:
            name = _part_name(part.part, part.images, part.prompts)
            columns[name] = _saved(part.latency.median, alone.latency.median)
    return columns


def _saved(now: float, before: float) -> str:
    return f"{before:.2f} → {now:.2f} ({(1 - now / before) * 100:+.0f} %)"


def _beside(bench: BenchResult, baseline: Baseline) -> list[Row]:
    """Milliseconds an image, and how many times as long the alternatives take, at each batch that both were measured
    at. End to end is compared where both looked for as many prompts and kept as many masks."""
    rows, main = [], main_part(bench.engines)
    for batch in sorted({run.batch for way in baseline.ways for run in way.runs}):
        camera, alone = bench.camera(batch), bench.part(main.name, batch) if main else None
        kept = baseline.masks * baseline.prompts * batch
        alike = camera if camera and bench.prompts == baseline.prompts and abs(camera.masks_kept - kept) < 0.5 else None
        row: Row = {"images": batch}
        known = {"vision": alone.latency if alone else None, "end_to_end": alike.end_to_end if alike else None}
        for what, ours in known.items():
            if ours is None:
                continue
            shown = what.replace("_", " ")
            row[f"{shown} ms"] = f"{ours.median / batch:.2f}"
            for way in baseline.ways:
                theirs = next((run for run in way.runs if run.batch == batch), None)
                if theirs:
                    ratio = getattr(theirs, what).median / ours.median
                    row[f"{shown}: ×{way.name}"] = f"{ratio:.2f}{_mark(theirs.stable)}"
        if len(row) > 1:
            rows.append(row)
    return rows


def _way_row(baseline: Baseline, way: Any) -> Row:
    """What a user has without this project, at one resolution."""
    row: Row = {"resolution": baseline.resolution, "way": way.name, "precision": baseline.precision}
    row |= {"attention": way.attention, "torch": baseline.libraries.get("torch"), "failed": way.failed}
    for run in way.runs:
        row[f"vision ms an image, {run.batch}"] = f"{run.vision.median / run.batch:.2f}"
        row[f"end to end ms an image, {run.batch}"] = f"{run.end_to_end.median / run.batch:.2f}{_mark(run.stable)}"
        row[f"allocated MiB, {run.batch}"] = run.allocated_mib
        row[f"reserved MiB, {run.batch}"] = run.reserved_mib
    if way.compile_seconds is not None:
        row["compile s"] = way.compile_seconds
    return row
