"""Merges tables of several runs: ``bench/table.json`` of each, files of ``sam3-runtime bench``, and baselines.

Pure: reads JSON, rejects results that cannot be compared, and returns rows as plain data, which ``pages.py`` writes.
The result contains the records that it was made from, so that it can be merged again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.wording import percent
from sam3_runtime.families import FAMILIES, main_part
from sam3_runtime.families.base import RESOLUTION
from sam3_runtime.records.measurements import Baseline, BaselineWay, BenchResult, Measured
from sam3_runtime.report.eight_bit import eight_bit_share, main_engine, name_of, precision_used, warnings_of
from sam3_runtime.report.pages import merged_markdown
from sam3_runtime.report.report import accuracy_columns, engine_columns
from sam3_runtime.report.tables import Row, marked


def _read(file: Path) -> tuple[list[Measured], list[Baseline]]:
    """Return the variants and baselines in a file of any of the three kinds; :class:`RecordError` for another file."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{file} is missing", "name bench/table.json of a work folder, or a baseline") from None
    except ValueError as error:
        raise RecordError(f"{file} is not JSON: {error}", "name bench/table.json of a work folder") from None
    if "variants" in raw:
        variants, baselines = raw["variants"], raw.get("baselines", [])
    elif "ways" in raw:
        variants, baselines = [], [raw]
    elif "bench" in raw:
        variants, baselines = [{key: raw[key] for key in Measured.model_fields if key in raw}], []
    else:
        raise RecordError(
            f"{file} contains no measurement that can be merged",
            "name bench/table.json, a file of `sam3-runtime bench`, or bench/baselines/r….json",
        )
    try:
        return [Measured.model_validate(one) for one in variants], [Baseline.model_validate(one) for one in baselines]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(key) for key in first["loc"])
        raise RecordError(
            f"{file} was written by another version: {location}: {first['msg']}", "measure again: snakemake bench_all"
        ) from None


def _rows_of(files: Sequence[tuple[str, list[Measured]]]) -> list[Measured]:
    """One :class:`Measured` for each variant name; one with a benchmark replaces those without.

    :class:`RecordError` where two remain for a name.
    """
    found: dict[str, list[tuple[str, Measured]]] = defaultdict(list)
    for file, variants in files:
        for one in variants:
            found[name_of(one)].append((file, one))
    for name, listed in found.items():
        found[name] = [pair for pair in listed if pair[1].bench] or listed
        if len(found[name]) > 1:
            first, second = found[name][0][0], found[name][1][0]
            raise RecordError(f"{name} is in {first} and in {second}", "name one of the two files")
    if not found:
        raise RecordError("none of these files contains a variant", "name bench/table.json of a work folder")
    return [one for ((_, one),) in found.values()]


def _check_conditions(variants: Sequence[tuple[str, Measured]], baselines: Sequence[tuple[str, Baseline]]) -> None:
    """:class:`RecordError` if results are of different GPUs, backends or checkpoints."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)  # value → file; checkpoints by digest, as names are not unique
    benches = [(file, one.bench) for file, one in variants if one.bench]
    for file, bench in benches:
        seen["backends"].setdefault(f"{bench.toolchain.backend} {bench.toolchain.version}", file)
    measured: list[tuple[str, BenchResult | Baseline]] = [*benches, *baselines]
    for file, one in measured:
        seen["GPUs"].setdefault(one.device, file)
        seen["checkpoints"].setdefault(one.checkpoint_digest[:12], f"{file} ({one.checkpoint})")
    for what, values in seen.items():
        if len(values) > 1:
            listed = "\n".join(f"  {value}: {file}" for value, file in values.items())
            raise RecordError(f"these files are of different {what}:\n{listed}", "merge those of each separately")


def merge(files: Sequence[Path]) -> dict[str, Any]:
    """Return the merged table of ``files`` as plain data.

    Raises :class:`RecordError` for a file of another kind, for different GPUs, backends or checkpoints, and for a
    variant that was measured twice.
    """
    read = [(str(file), *_read(file)) for file in files]
    variants = _rows_of([(file, found) for file, found, _ in read])
    baselines = [one for _, _, found in read for one in found]
    _check_conditions(
        [(file, one) for file, found, _ in read for one in found if one in variants],
        [(file, one) for file, _, found in read for one in found],
    )
    benches = [one.bench for one in variants if one.bench]
    return {
        "device": sorted({bench.device for bench in benches}),
        "driver": sorted({bench.driver for bench in benches if bench.driver}),
        "backend": sorted({f"{bench.toolchain.backend} {bench.toolchain.version}" for bench in benches}),
        "checkpoint": {"name": benches[0].checkpoint, "digest": benches[0].checkpoint_digest} if benches else None,
        "dates": sorted({bench.date for bench in benches}),
        "prompts": sorted({bench.prompts for bench in benches}),
        "clocks": _clocks(benches),
        "rows": [_row(one, variants, baselines) for one in variants],
        "warnings": warnings_of(variants),
        "ways": [_way_row(baseline, way) for baseline in baselines for way in baseline.ways],
        "variants": [one.model_dump(mode="json") for one in variants],
        "baselines": [one.model_dump(mode="json") for one in baselines],
    }


def write_merged(files: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write the merged table of ``files`` to ``output`` with the suffixes .json and .md, and return it."""
    table = merge(files)
    write_atomically(output.with_name(f"{output.name}.json"), (json.dumps(table, indent=1) + "\n").encode())
    write_atomically(output.with_name(f"{output.name}.md"), merged_markdown(table).encode())
    return table


def _clocks(benches: Sequence[BenchResult]) -> dict[str, list[float]]:
    """Lowest and highest median over the runs, of each reading that any run has."""
    readings = [bench.clocks.during for bench in benches if bench.clocks]
    names = ("sm_mhz", "memory_mhz", "temperature_c", "power_w")
    columns = {name: [v for one in readings if (v := getattr(one, name)) is not None] for name in names}
    return {name: [min(values), max(values)] for name, values in columns.items() if values}


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(found: Measured, others: Sequence[Measured], baselines: Sequence[Baseline]) -> dict[str, Any]:
    """One variant: its name and status, and its rows in each section of the page (``pages.yaml``)."""
    row: dict[str, Any] = {"variant": name_of(found), "status": found.status, "reason": found.reason}
    row |= {"accuracy": [_accuracy(found, others)], "memory": [_memory(found)]}
    bench = found.bench
    if bench is None:
        return row
    same = [one for one in baselines if one.resolution == _resolution_of(found.variant)]
    return row | {
        "speed": _speed(bench),
        "parts": [_parts(bench)],
        "graphs": [_gain(bench)],
        "beside": [line for one in same for line in _beside(bench, one)],
    }


def _accuracy(found: Measured, others: Sequence[Measured]) -> Row:
    columns: Row = {"status": found.status}
    if found.engines:
        share = eight_bit_share(found)
        columns |= engine_columns(found, others)
        columns["vision precision"] = precision_used(main_engine(found))
        columns |= {} if share is None else {"8-bit share": percent(share)}
    return columns | accuracy_columns(found)


def _memory(found: Measured) -> Row:
    columns: Row = {}
    if found.predicted:
        total, without_text = found.predicted["with_text"], found.predicted["without_text"]
        columns |= {name: without_text[f"{name}_mib"] for name in ("weights", "scratch", "buffers")}
        columns |= {"predicted": without_text["total_mib"], "predicted, with text": total["total_mib"]}
    measured = found.bench.device_memory if found.bench else None
    if measured:
        columns |= {"loaded": measured.loaded_mib, "ready": measured.ready_mib, "peak": measured.peak_mib}
        columns["measured as"] = measured.method
    return columns


def _resolution_of(variant: str) -> int | None:
    """Return the resolution in the name of a variant; None if it is not such a name."""
    matches = (spec.name_pattern.fullmatch(variant) for spec in FAMILIES.values())
    return next((int(match[RESOLUTION]) for match in matches if match), None)


def _speed(bench: BenchResult) -> list[Row]:
    """Milliseconds an image, a row for each number of cameras."""
    rows = []
    for camera in bench.cameras:
        count, total = camera.cameras, camera.end_to_end
        row: Row = {"cameras": count}
        row |= {stage: f"{taken.median / count:.2f}" for stage, taken in camera.stages.items()}
        row["end to end"] = marked(f"{total.median / count:.2f}", camera.stable)
        row |= {"round": f"{total.median:.2f}", "mean": f"{total.mean:.2f}"}
        row |= {"p95": f"{total.p95:.2f}", "p99": f"{total.p99:.2f}"}
        row["FPS a camera"] = marked(f"{camera.fps_per_camera:.2f}", camera.stable)
        rows.append(row | {"results": camera.masks_kept})
    return rows


def _parts(bench: BenchResult) -> Row:
    """Each part alone: milliseconds a call for parts with prompts, an image for the others."""
    return {
        _part_name(part.part, part.images, part.prompts): marked(
            f"{part.latency.median if part.prompts else part.per_image:.2f}", part.stable
        )
        for part in bench.parts
    }


def _part_name(part: str, images: int, prompts: int) -> str:
    known = next(spec.parts[part] for spec in FAMILIES.values() if part in spec.parts)
    return known.label.format(part=part, images=images, prompts=prompts)


def _gain(bench: BenchResult) -> Row:
    """Return times without and with CUDA graphs, and the share saved."""
    off = bench.without.get("cuda_graphs")
    if off is None:
        return {}
    pairs = [
        (f"round of {one.cameras}", one.end_to_end, before.end_to_end)
        for one in bench.cameras
        if (before := off.camera(one.cameras))
    ]
    pairs += [
        (_part_name(one.part, one.images, one.prompts), one.latency, alone.latency)
        for one in bench.parts
        if (alone := off.part(one.part, one.images, one.prompts))
    ]
    return {
        name: f"{before.median:.2f} → {now.median:.2f} ({(1 - now.median / before.median) * 100:+.0f} %)"
        for name, now, before in pairs
    }


def _beside(bench: BenchResult, baseline: Baseline) -> list[Row]:
    """Milliseconds an image, and the alternatives' time as a multiple, at each batch that both were measured at.

    End to end is compared only if both had the same number of prompts and of masks.
    """
    rows, main = [], main_part(bench.engines)
    for batch in sorted({run.batch for way in baseline.ways for run in way.runs}):
        camera, alone = bench.camera(batch), bench.part(main.name, batch) if main else None
        masks = baseline.masks * baseline.prompts * batch
        if camera and (bench.prompts != baseline.prompts or abs(camera.masks_kept - masks) >= 0.5):
            camera = None
        row: Row = {"images": batch}
        known = {"vision": alone.latency if alone else None, "end_to_end": camera.end_to_end if camera else None}
        for what, ours in known.items():
            if ours is None:
                continue
            title = what.replace("_", " ")
            row[f"{title} ms"] = f"{ours.median / batch:.2f}"
            for way in baseline.ways:
                for run in way.runs:
                    if run.batch == batch:
                        ratio = getattr(run, what).median / ours.median
                        row[f"{title}: ×{way.name}"] = marked(f"{ratio:.2f}", run.stable)
        if len(row) > 1:
            rows.append(row)
    return rows


def _way_row(baseline: Baseline, way: BaselineWay) -> Row:
    """One way to run the model without this project, at one resolution."""
    row: Row = {"resolution": baseline.resolution, "way": way.name, "precision": baseline.precision}
    row |= {"attention": way.attention, "torch": baseline.libraries.get("torch"), "failed": way.failed}
    for run in way.runs:
        end_to_end = marked(f"{run.end_to_end.median / run.batch:.2f}", run.stable)
        row |= {
            f"vision ms an image, {run.batch}": f"{run.vision.median / run.batch:.2f}",
            f"end to end ms an image, {run.batch}": end_to_end,
            f"allocated MiB, {run.batch}": run.allocated_mib,
            f"reserved MiB, {run.batch}": run.reserved_mib,
        }
    return row | {"compile s": way.compile_seconds}
