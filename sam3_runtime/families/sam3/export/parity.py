"""Compares the exported graphs, run by ONNX Runtime, with transformers' ``Sam3Model``, tensor by tensor.

    python -m sam3_runtime.families.sam3.export.parity --checkpoint FOLDER --output docs/parity.md [--full]

The numbers are written to ``results/export.json`` beside the output, which is made from them. ``--full`` also exports
the full-size architecture (``random``), measures time and peak memory, each part in its own process, and its losses in
float16. The losses of the small checkpoint in float16 are always measured (``losses.py``). The tests in
``tests/families/sam3/export`` use these comparisons. Engines are verified by ``measure/verify.py``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from sam3_runtime.core.files import write_atomically
from sam3_runtime.families.sam3.export.checkpoint import RANDOM, lock
from sam3_runtime.families.sam3.export.graph import Precision, export_part
from sam3_runtime.families.sam3.export.losses import measure_full, measure_losses
from sam3_runtime.families.sam3.export.losses_report import describe_losses
from sam3_runtime.families.sam3.export.scene import ROWS, Scene, decoder_feeds
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, PartName
from sam3_runtime.records.records import CheckpointLock
from sam3_runtime.report.tables import page, table

QUERIES = 50
_MEASURED: list[tuple[PartName, Precision, int]] = [
    *((part, precision, 1008) for precision in get_args(Precision) for part in PART_NAMES),
    ("vision-encoder", "fp16", 672),
]
Feeds = Mapping[str, Tensor]
Differences = dict[str, float]


class Graph:
    """An exported graph in ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Return the outputs by name."""
        values = self._session.run(None, {name: np.ascontiguousarray(value.numpy()) for name, value in feeds.items()})
        return dict(zip(self.outputs, values, strict=True))


def largest(a: NDArray[Any], b: Tensor | NDArray[Any]) -> float:
    """Return the largest absolute difference; infinite where the shapes differ."""
    other = b.numpy() if isinstance(b, Tensor) else b
    if a.shape != other.shape:
        return float("inf")
    return float(np.abs(a.astype(np.float64) - other.astype(np.float64)).max(initial=0.0))


# Comparisons ------------------------------------------------------------------------------------------------------


def compare_vision(scene: Scene, graph: Graph, batch: int) -> Differences:
    """Compare the vision encoder on the first ``batch`` images."""
    got = graph({"images": scene.images[:batch]})
    wanted = [*(level[:batch] for level in scene.features), scene.position]
    return {name: largest(got[name], value) for name, value in zip(graph.outputs, wanted, strict=True)}


def compare_text(scene: Scene, graph: Graph, rows: int) -> Differences:
    """Compare the text encoder on the first ``rows`` texts."""
    got = graph({name: value[:rows] for name, value in scene.text.items()})
    wanted = scene.text_features[:rows], scene.text["attention_mask"][:rows].bool()
    return {name: largest(got[name], value) for name, value in zip(graph.outputs, wanted, strict=True)}


def compare_geometry(scene: Scene, graph: Graph, rows: int, boxes: int, shared: bool) -> Differences:
    """Compare the geometry encoder on ``boxes`` boxes for each of ``rows`` images, or for one that they share.

    Only valid tokens, in order: transformers puts the CLS token before the padding, the graph after it.
    """
    images = slice(0, 1 if shared else rows)
    corners, labels = (value[:rows] for value in scene.boxes(boxes))
    feeds = {"input_boxes": corners, "input_boxes_labels": labels}
    got = graph(feeds | {"fpn_feat_2": scene.features[2][images], "fpn_pos_2": scene.position})
    features, mask = scene.geometry(corners, labels, images)
    valid = got["geometry_mask"]
    return {
        "geometry_features": largest(got["geometry_features"][valid], features[mask]),
        "geometry_mask": largest(valid.sum(axis=1), mask.sum(dim=1)),
    }


def compare_decoder(scene: Scene, graph: Graph, rows: int, boxes: int, shared: bool) -> Differences:
    """Compare the decoder on ``rows`` prompts with ``boxes`` boxes, for an image each or for one that they share.

    Each row with transformers' queries of the indices in ``query_index``.
    """
    images = slice(0, 1 if shared else rows)
    prompt, mask = scene.prompt(rows, boxes, images)
    got = graph(decoder_feeds(scene, prompt, mask, images))
    wanted = scene.detect(prompt, mask, images)
    index = got["query_index"]
    differences = {
        name: largest(got[name], np.stack([wanted[name][row].numpy()[index[row]] for row in range(rows)]))
        for name in ("pred_masks", "pred_boxes", "pred_logits")
    }
    return differences | {"presence_logits": largest(got["presence_logits"], wanted.presence_logits)}


def compare_all(lock: CheckpointLock, resolutions: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    """Export every part at every resolution into ``folder``; yield the differences by part, resolution and rows."""
    for resolution in resolutions:
        scene = Scene.of(lock, resolution)
        for part in PART_NAMES:
            if part == "text-encoder" and resolution != resolutions[0]:
                continue
            path, axes = folder / f"{part}.onnx", PARTS[part].graph_axes({"resolution": resolution, "queries": QUERIES})
            export_part(part, lock, path, **axes)
            graph, nodes = Graph(path), len(onnx.load(str(path), load_external_data=False).graph.node)
            shown = axes.get("resolution")
            for rows in range(1, ROWS + 1):
                found = _compare(part, scene, graph, rows)
                yield {"part": part, "resolution": shown, "rows": rows, "nodes": nodes, "differences": found}


def _compare(part: PartName, scene: Scene, graph: Graph, rows: int) -> Differences:
    if part == "vision-encoder":
        return compare_vision(scene, graph, rows)
    if part == "text-encoder":
        return compare_text(scene, graph, rows)
    compare, counts = (compare_geometry, (1, 7)) if part == "geometry-encoder" else (compare_decoder, (0, 7))
    found = [compare(scene, graph, rows, boxes, shared) for boxes in counts for shared in (True, False)]
    return {name: max(one[name] for one in found) for name in found[0]}


# Full size, and the document --------------------------------------------------------------------------------------


def measure(part: PartName, precision: Precision, size: int) -> dict[str, Any]:
    """Export one full-size part with random weights in this process; return seconds, peak memory and file size."""
    axes = PARTS[part].graph_axes({"resolution": size, "queries": QUERIES})
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{part}.onnx"
        start = time.perf_counter()
        export_part(part, lock(RANDOM), path, precision=precision, **axes)
        seconds = time.perf_counter() - start
        bytes_ = sum(file.stat().st_size for file in Path(folder).iterdir())
        nodes = len(onnx.load(str(path), load_external_data=False).graph.node)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = {"seconds": round(seconds, 1), "peak_mib": peak >> 10, "file_mib": bytes_ >> 20, "nodes": nodes}
    return {"part": part, "precision": precision, "resolution": axes.get("resolution"), **numbers}


def _measure_apart(part: PartName, precision: Precision, size: int) -> dict[str, Any]:
    module = "sam3_runtime.families.sam3.export.parity"
    command = [sys.executable, "-m", module, "--measure", part, precision, str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


_METHOD = """\
Generated by `make parity` from `results/export.json`; do not edit. Each number is the largest absolute difference
between the graph in ONNX Runtime (CPU, float32) and transformers' `Sam3Model` in PyTorch, on seeded inputs and the
demo's checkpoint. Rows are images (vision), prompts (text), or prompts with one shared image and with one image each,
with and without 7 boxes (geometry: 1 and 7 boxes)."""


def document(results: Mapping[str, Any]) -> str:
    """Return the text of ``docs/parity.md`` from the results."""
    versions = " · ".join(f"{name} {version}" for name, version in results["versions"].items())
    found = (
        ", ".join(f"`{name}` {value:.1e}" for name, value in row["differences"].items()) for row in results["parity"]
    )
    keys = ("part", "resolution", "rows", "nodes")
    rows = [[*(row[key] for key in keys), text] for row, text in zip(results["parity"], found, strict=True)]
    parts = ["# Parity of the exported graphs", _METHOD, versions, table((*keys, "largest absolute difference"), rows)]
    if results.get("full"):
        names = {"seconds": "seconds", "peak_mib": "peak memory, MiB", "file_mib": "file, MiB", "nodes": "nodes"}
        columns = ["part", "precision", "resolution", *names]
        rows = [[row[key] for key in columns] for row in results["full"]]
        title = f"## Exporting the full size (`random`, {QUERIES} queries, 2 busy CPU cores)"
        parts += [title, table([names.get(key, key) for key in columns], rows)]
    return page(*parts, *describe_losses(results["float16"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=str)
    parser.add_argument("--output", type=Path, default=Path("docs/parity.md"))
    parser.add_argument("--resolutions", type=int, nargs="+", default=[336, 280, 224, 182])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        part, precision, size = chosen.measure
        print(json.dumps(measure(part, precision, int(size))))
        return 0
    if not chosen.checkpoint:
        parser.error("--checkpoint is missing")
    results_file = chosen.output.parent / "results" / "export.json"
    before = json.loads(results_file.read_bytes()) if results_file.is_file() else {}
    found = lock(chosen.checkpoint)
    modules = (torch, transformers, onnxruntime)
    results: dict[str, Any] = {"versions": {module.__name__: module.__version__ for module in modules}}
    with TemporaryDirectory() as folder:
        results["parity"] = list(compare_all(found, chosen.resolutions, Path(folder)))
        results["float16"] = before.get("float16", {}) | measure_losses(found, Path(folder))
        if chosen.full:
            results["float16"] |= measure_full(lock(RANDOM), Path(folder))
    results["full"] = [_measure_apart(*what) for what in _MEASURED] if chosen.full else before.get("full", [])
    write_atomically(results_file, (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(chosen.output, document(results).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
