"""Measures what resolution, queries and precision cost the demo's checkpoint, and writes docs/accuracy.md.

    python -m demo.accuracy                        builds, measures on 500 held-out scenes, writes the JSON and the page
    python -m demo.accuracy --backend tensorrt     the same on the GPU of this machine
    python -m demo.accuracy --page                 the page alone, from docs/results/accuracy-*.json

What `make accuracy` runs. One parameter is varied at a time from 336 pixels, 200 queries and floating point; on a GPU
only the precision, as the effect of resolution and queries does not depend on the machine. Each algorithm of INT8 has
its own work folder in demo/work/accuracy/, as it is a setting of a folder; a second run builds and measures only what
changed. `--prepare` writes these folders and runs nothing: where PyTorch and TensorRT are in different environments,
`snakemake export_all --directory FOLDER` is then run in the first, and this without `--prepare` in the second. Rejected
variants are measured too, and marked in the table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from demo.run import run, show
from sam3_runtime.core.errors import RecordError, Sam3Error
from sam3_runtime.core.files import write_atomically
from sam3_runtime.families.sam3.evaluate import Evaluation, evaluate
from sam3_runtime.families.sam3.parts import PART_NAMES
from sam3_runtime.plan.settings import Algorithm
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.measurements import BenchResult
from sam3_runtime.records.records import EngineRecord, Verdict
from sam3_runtime.report.tables import grid, marked, page

DEMO = Path(__file__).resolve().parent
PROJECT = DEMO.parent
WORK = DEMO / "work/accuracy"
RESULTS = PROJECT / "docs/results"
PAGE = PROJECT / "docs/accuracy.md"
LOG = "accuracy.log"
SCENES = 500
BATCH = 4
BASE = Variant((BATCH, 200, 336))
FLOATS = [
    BASE,
    *(Variant((BATCH, 200, resolution)) for resolution in (280, 224, 168)),
    *(Variant((BATCH, queries, 336)) for queries in (50, 20)),
]
INT8 = Variant((BATCH, 200, 336), "int8")
PROMPTS = ["red circle", "blue square", "star", "green object"]  # of the speed measurement


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(backend: str, checkpoint: Path, scenes: int) -> Path:
    """Build and measure everything with ``backend``, and write its JSON; return the path."""
    rows: list[dict[str, Any]] = []
    for algorithm, folder, variants in prepare(backend, checkpoint, scenes):
        _snakemake(folder)
        rows += [_row(folder, variant, algorithm) for variant in variants]
        if BASE in variants:
            boxes = _by_boxes(folder / "engines" / BASE.name, _scenes(scenes), folder / "accuracy/boxes.json")
    first = Evaluation.model_validate(rows[0]["evaluation"])
    found = {"device": first.device, "rows": rows, "boxes": boxes.model_dump(mode="json")}
    machine = backend if backend == "onnxruntime" else f"{backend}-{first.device}"
    target = RESULTS / f"accuracy-{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"
    write_atomically(target, (json.dumps(found, indent=1) + "\n").encode())
    return target


def prepare(backend: str, checkpoint: Path, scenes: int) -> list[tuple[str, Path, list[Variant]]]:
    """Write the scenes, and the work folder of each algorithm with its ``variants.yaml``."""
    annotations = _scenes(scenes)
    if not annotations.is_file():
        folder_shown = str(annotations.parent.relative_to(PROJECT))
        run(sys.executable, "-m", "demo.scenes", folder_shown, "--count", str(scenes))
    prepared: list[tuple[str, Path, list[Variant]]] = []
    for algorithm in get_args(Algorithm):
        floats = [] if prepared else FLOATS if backend == "onnxruntime" else [BASE]
        folder = WORK / backend / algorithm
        folder.mkdir(parents=True, exist_ok=True)
        settings = _settings(backend, checkpoint, annotations, algorithm, [*floats, INT8])
        (folder / "variants.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        prepared.append((algorithm, folder, [*floats, INT8]))
    return prepared


def _scenes(count: int) -> Path:
    return DEMO / f"work/scenes-{count}/annotations.json"


def _settings(
    backend: str, checkpoint: Path, annotations: Path, algorithm: str, variants: Sequence[Variant]
) -> dict[str, Any]:
    images = str(annotations.parent / "images")
    return {
        "model": {"checkpoint": str(checkpoint)},
        "backend": backend,
        "build": {"cache": str(WORK / backend / "cache")},
        "variants": [{**one.axes, "quantize": one.quantize} for one in variants],
        "accuracy": {"annotations": str(annotations)},
        "calibration": {"algorithm": algorithm, "source": images, "frames": 50},
        "bench": {"source": [images], "prompts": PROMPTS, "cameras": [1], "parts": False},
    }


def _snakemake(folder: Path) -> None:
    shown = str(folder.relative_to(PROJECT))
    command = [sys.executable, "-msnakemake", "bench_all", "accuracy_all", "--directory", shown]
    show(*command)
    # This fails if a variant is rejected; that one is measured too. Missing results raise an error below.
    with open(folder / LOG, "w", encoding="utf-8") as log:
        subprocess.run(command, cwd=PROJECT, check=False, stdout=log, stderr=subprocess.STDOUT)


def _row(folder: Path, variant: Variant, algorithm: str) -> dict[str, Any]:
    """One variant: its accuracy, verdict and speed."""
    directory = folder / "engines" / variant.name
    try:
        evaluation = Evaluation.read(folder / "accuracy" / f"{variant.name}.json")
        verdict = Verdict.read(directory / "verify.json")
        bench = BenchResult.read(folder / "bench" / f"{variant.name}.json")
        records = [EngineRecord.read(directory / f"{part}.engine.json") for part in PART_NAMES]
    except RecordError as error:
        raise RecordError(
            f"{variant.name} was not measured: {error.message}", f"{folder / LOG} has the output of Snakemake"
        ) from None
    rounds = bench.cameras[0]
    return {
        "variant": variant.name,
        "precision": "+".join(sorted({one.quantize or one.precision for one in records})),
        "algorithm": algorithm if variant.suffix else None,
        "status": verdict.status,
        "ms": rounds.end_to_end.median,
        "stable": rounds.stable,
        "prompts": bench.prompts,
        "version": bench.toolchain.version,
        "evaluation": evaluation.model_dump(mode="json"),
    }


def _by_boxes(directory: Path, annotations: Path, file: Path) -> Evaluation:
    """The base variant, prompted by example boxes; measured once for the same engines."""
    digests = {part: EngineRecord.read(directory / f"{part}.engine.json").sha256 for part in PART_NAMES}
    if file.is_file() and Evaluation.read(file).engines == digests:
        return Evaluation.read(file)
    show("sam3-runtime", "evaluate", directory.name, annotations.name, "--prompts", "boxes")
    return evaluate(directory, annotations, prompts="boxes", output=file)


# --- the page ---------------------------------------------------------------------------------------------------------


def document(files: Sequence[Path]) -> str:
    """Return ``docs/accuracy.md`` from the JSON of each machine."""
    return page(_HEAD, *(part for file in files for part in _section(json.loads(file.read_bytes()))))


_HEAD = """# Accuracy: what resolution, queries and precision cost

Generated by `make accuracy` from `results/accuracy-*.json`; do not edit. The demo's checkpoint on held-out scenes; one
parameter is varied at a time. AP is COCO's, the mean over phrases and over IoU 0.5 to 0.95; `small` is the box AP of
objects below 32² pixels. cgF1 is SAM 3's. False alarms are absent phrases with a detection above the threshold, as a
share of these prompts and of images. `ms` is the median time of an image, from preprocessing to masks. `verdict` is the
gate's, with its limits for float or 8 bits: on features and detections of four photographs, and on AP of the first 50
scenes. [Evaluating](evaluation.md) describes how to measure your own data, and [INT8 and FP8](quantization.md)
discusses the 8-bit rows."""


def _section(found: dict[str, Any]) -> Iterator[str]:
    rows = found["rows"]
    first = Evaluation.model_validate(rows[0]["evaluation"])
    yield f"## {first.backend} {rows[0]['version']} on {found['device']}"
    yield (
        f"{first.images} scenes, {first.accuracy.pairs} prompts of {first.phrases} phrases, "
        f"{first.accuracy.instances} instances; threshold {first.accuracy.threshold:g}; `ms` with {rows[0]['prompts']} "
        f"prompts; checkpoint {first.checkpoint_digest[:12]}; {first.date}"
    )
    yield grid([_shown(row) for row in rows])
    boxes = Evaluation.model_validate(found["boxes"])
    yield (
        f"With one example box on the same image instead of words ({boxes.variant}, {boxes.accuracy.pairs} prompts): "
        f"box AP {_number(boxes.accuracy.box.ap)}, AP50 {_number(boxes.accuracy.box.ap50)}, "
        f"mask AP {_number(boxes.accuracy.mask.ap if boxes.accuracy.mask else None)}."
    )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    found = Evaluation.model_validate(row["evaluation"]).accuracy
    alarms = found.false_alarms
    return {
        "variant": row["variant"],
        "precision": f"{row['precision']} ({row['algorithm']})" if row["algorithm"] else row["precision"],
        "box AP": _number(found.box.ap),
        "AP50": _number(found.box.ap50),
        "small": _number(found.box.small),
        "mask AP": _number(found.mask.ap if found.mask else None),
        "cgF1": _number(found.concept.cgf1, 1),
        "false alarms": f"{_percent(alarms.share)} / {_percent(alarms.image_share)}",
        "ms": marked(f"{row['ms']:.1f}", row["stable"]),
        "verdict": row["status"],
    }


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f} %"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("onnxruntime", "tensorrt", "tensorrt-rtx"), default="onnxruntime")
    parser.add_argument("--checkpoint", type=Path, default=DEMO / "checkpoint")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--prepare", action="store_true", help="write the work folders, and run nothing in them")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint.resolve()
    try:
        if arguments.prepare:
            for _, folder, _ in prepare(arguments.backend, checkpoint, arguments.scenes):
                print(folder.relative_to(PROJECT))
            return 0
        if not arguments.page:
            print(f"wrote {measure(arguments.backend, checkpoint, arguments.scenes)}")
    except Sam3Error as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    write_atomically(PAGE, document(sorted(RESULTS.glob("accuracy-*.json"))).encode())
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
