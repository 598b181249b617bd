"""Measures the loss of float16: the float16 graphs, with each result rounded, against PyTorch in float32.

The small checkpoint runs on the demo's photographs, each part on the outputs of the parts before, as in a pipeline; the
full size (``random``) runs on one image. Each island is switched off in turn. Part of ``parity.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam3_runtime.families.base import resolve
from sam3_runtime.families.sam3.export.graph import build_module, export_part
from sam3_runtime.families.sam3.export.islands import ISLANDS
from sam3_runtime.families.sam3.export.reference import widest_gap
from sam3_runtime.families.sam3.export.rounded import RoundedGraph
from sam3_runtime.families.sam3.export.scene import ROWS, Scene
from sam3_runtime.families.sam3.export.weights import load_model
from sam3_runtime.families.sam3.parts import PART_NAMES, PARTS, PartName
from sam3_runtime.families.sam3.postprocess import scores_of
from sam3_runtime.families.sam3.settings import ReferenceSection
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.media.sources import load_image
from sam3_runtime.records.records import CheckpointLock, Preprocessing

Array = NDArray[Any]
Arrays = dict[str, Array]
Detections = dict[str, Any]
"""``same``: whether the same queries are detected; ``gap``: between the float32 scores next to the threshold."""

CANDIDATES = ("BoxDistance", "SinePosition", "Scoring", "MaskHead", "GroupNorm", "LayerNorm")
"""Modules that could be islands: what they would gain is measured as well."""
_TRIED: dict[PartName, tuple[str, ...]] = {
    "geometry-encoder": ("BoxSides", "BoxSampling", "SinePosition", "LayerNorm"),
    "decoder": ("BoxCorners", "BoxRefinement", *CANDIDATES),
}
_TOKENS = 20
_PROMPTS = 2
_BOXES = 7


def photographs(resolution: int, count: int | None = None) -> Tensor:
    """Return the preprocessed default verification images [count, 3, R, R]."""
    names = ReferenceSection().source[:count]
    return torch.from_numpy(preprocess([load_image(name) for name in names], resolution, Preprocessing()))


def loss(got: Array, wanted: Array) -> dict[str, float]:
    """Return 1 - cosine of two arrays of one shape, and the largest absolute error; both infinite for NaN."""
    one, other = got.astype(np.float64), wanted.astype(np.float64)
    error = float(np.abs(one - other).max(initial=0.0))
    return {"cosine_loss": _angle(one.ravel(), other.ravel()), "error": error if np.isfinite(error) else float("inf")}


def _angle(a: Array, b: Array) -> float:
    """Return 1 - cosine without cancellation, as half the squared distance of the two directions."""
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if not (np.isfinite(length_a) and np.isfinite(length_b) and length_a and length_b):
        return 0.0 if np.array_equal(a, b) else float("inf")
    return float(np.square(a / length_a - b / length_b).sum() / 2)


class Chain:
    """The four float16 graphs of a checkpoint, to run on the images and prompts of ``scene``.

    The decoder returns all queries. ``largest`` is about all runs.
    """

    def __init__(self, scene: Scene, graphs: Mapping[PartName, Path]) -> None:
        self.scene = scene
        self._graphs = {part: RoundedGraph(path) for part, path in graphs.items()}

    def largest(self) -> dict[str, tuple[str, float]]:
        """Return for each part the node with the largest result, and that value."""
        return {part: max(graph.largest.items(), key=lambda item: item[1]) for part, graph in self._graphs.items()}

    def run(self) -> tuple[dict[str, dict[str, float]], list[Detections]]:
        """Return the losses of every output, and the detections of each row, without and with boxes."""
        scene, found = self.scene, {}
        vision = self._graphs["vision-encoder"]({"images": scene.images})
        for name, wanted in zip(vision, [*scene.features, scene.position], strict=True):
            found[name] = loss(vision[name], wanted.numpy())
        text = self._graphs["text-encoder"](scene.text)
        found["text_features"] = loss(text["text_features"], scene.text_features.numpy())
        rows = len(scene.images)
        features = tuple(torch.from_numpy(vision[f"fpn_feat_{level}"]) for level in range(3))
        corners, labels = scene.boxes(_BOXES)
        position = torch.from_numpy(vision["fpn_pos_2"])
        feeds = {"input_boxes": corners, "input_boxes_labels": labels, "fpn_feat_2": features[2]}
        geometry = self._graphs["geometry-encoder"](feeds | {"fpn_pos_2": position})
        encoded, valid = scene.geometry(corners, labels, slice(0, rows))
        tokens = geometry["geometry_features"][geometry["geometry_mask"]]
        found["geometry_features"] = loss(tokens, encoded[valid].numpy())
        read = [torch.from_numpy(text[name]) for name in ("text_features", "text_mask")]
        drawn = [torch.from_numpy(geometry[name]) for name in ("geometry_features", "geometry_mask")]
        detections: list[Detections] = []
        levels = {f"fpn_feat_{level}": values for level, values in enumerate(features)} | {"fpn_pos_2": position}
        for boxes, prompt in ((0, read), (_BOXES, [torch.cat(pair, dim=1) for pair in zip(read, drawn, strict=True)])):
            feeds = levels | {"prompt_features": prompt[0], "prompt_mask": prompt[1]}
            ours = by_query(self._graphs["decoder"](feeds))
            wanted = scene.detect(*scene.prompt(rows, boxes, slice(0, rows)), slice(0, rows))
            theirs = {name: wanted[name].numpy() for name in ours}
            for name, values in ours.items():
                one = loss(values, theirs[name])
                known = found.setdefault(name, one)
                found[name] = {key: max(value, known[key]) for key, value in one.items()}
            scores = (scores_of(one["pred_logits"], one["presence_logits"]) for one in (ours, theirs))
            detections += [compare_detections(*pair) for pair in zip(*scores, strict=True)]
        return found, detections


def by_query(outputs: Mapping[str, Array]) -> Arrays:
    """Return the decoder's outputs in the order of its queries, where all were returned."""
    order = np.argsort(outputs["query_index"], axis=1)
    rows = range(len(order))
    arranged = {
        name: np.stack([values[row][order[row]] for row in rows])
        for name, values in outputs.items()
        if name.startswith("pred")
    }
    return arranged | {"presence_logits": outputs["presence_logits"]}


def compare_detections(ours: Array, theirs: Array) -> Detections:
    """Compare the queries with scores above the threshold that the reference would choose for ``theirs``.

    That is a gap between two scores, as random weights have no score above 0.3.
    """
    threshold = widest_gap(theirs)
    gap = float(theirs[theirs > threshold].min() - theirs[theirs <= threshold].max())
    return {"same": bool(np.array_equal(ours > threshold, theirs > threshold)), "gap": gap}


def compare_small(lock: CheckpointLock, resolutions: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    """Run the chain at each resolution; yield one row of results each."""
    for resolution in resolutions:
        graphs: dict[PartName, Path] = {part: folder / f"{part}.onnx" for part in PART_NAMES}
        axes = {"resolution": resolution, "queries": lock.model_dims.queries}
        for part, path in graphs.items():
            export_part(part, lock, path, precision="fp16", **PARTS[part].graph_axes(axes))
        chain = Chain(Scene.of(lock, resolution, photographs(resolution, ROWS)), graphs)
        found, same = chain.run()
        yield {"resolution": resolution, "losses": found, "detections": same, "largest": chain.largest()}


# The full size ----------------------------------------------------------------------------------------------------


def compare_vision(lock: CheckpointLock, resolution: int, folder: Path) -> dict[str, Any]:
    """Compare the vision encoder with transformers' on one photograph."""
    images = photographs(resolution, 1)
    with torch.no_grad():
        vision = load_model(lock, resolution).vision_encoder(images)
    wanted = [*vision.fpn_hidden_states[:3], vision.fpn_position_encoding[2][:1]]
    path = folder / "vision-encoder.onnx"
    export_part("vision-encoder", lock, path, resolution=resolution, precision="fp16")
    graph = RoundedGraph(path)
    got = graph({"images": images})
    losses = {name: loss(got[name], value.numpy()) for name, value in zip(got, wanted, strict=True)}
    largest = sorted(graph.largest.items(), key=lambda item: -item[1])[:3]
    return {"resolution": resolution, "losses": losses, "largest": largest}


# Islands ----------------------------------------------------------------------------------------------------------


def try_islands(lock: CheckpointLock, part: PartName, resolution: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure the part with its islands, without each, without all, and with each candidate as one more."""
    queries = lock.model_dims.queries
    feeds = seeded_feeds(lock, part, resolution)
    with torch.no_grad():
        module = build_module(part, lock, **PARTS[part].graph_axes({"resolution": resolution, "queries": queries}))
        results = zip(PARTS[part].outputs, module(*feeds.values()), strict=True)
    wanted = _floats({tensor.name: value.numpy() for tensor, value in results})
    default = set(ISLANDS)
    tried = [("as exported", default), ("no island", set())]
    tried += [(f"{'without' if name in default else 'with'} {name}", default ^ {name}) for name in _TRIED[part]]
    for label, islands in tried:
        losses = rounded_losses(lock, part, resolution, feeds, wanted, islands, folder)
        yield {"part": part, "resolution": resolution, "islands": label, "losses": losses}


def rounded_losses(
    lock: CheckpointLock,
    part: PartName,
    resolution: int,
    feeds: Mapping[str, Tensor],
    wanted: Arrays,
    islands: Collection[str],
    folder: Path,
) -> dict[str, dict[str, float]]:
    """Return the losses of one part, exported with these islands."""
    path = folder / f"{part}.onnx"
    sizes = PARTS[part].graph_axes({"resolution": resolution, "queries": lock.model_dims.queries})
    export_part(part, lock, path, precision="fp16", islands=islands, **sizes)
    got = _floats(RoundedGraph(path)(feeds))
    return {name: loss(got[name], value) for name, value in wanted.items()}


def _floats(outputs: Arrays) -> Arrays:
    """Select the floating-point outputs, in an order that near-ties do not change."""
    arranged = by_query(outputs) if "query_index" in outputs else outputs
    return {name: value for name, value in arranged.items() if value.dtype.kind == "f"}


def seeded_feeds(lock: CheckpointLock, part: PartName, resolution: int) -> dict[str, Tensor]:
    """Return seeded inputs of the geometry encoder or the decoder: normal features; large, tiny and corner boxes."""
    dims, seeded = lock.model_dims, torch.Generator().manual_seed(resolution)
    grid = dims.grid(resolution)
    known = {"C": dims.channels, "g": grid, "2g": 2 * grid, "4g": 4 * grid}
    known |= {"P": _PROMPTS, "N": 1, "n": _BOXES, "L": _TOKENS}
    feeds = {}
    for tensor in PARTS[part].inputs:
        shape = [int(size) for size in resolve(tensor.shape, known)]
        feeds[tensor.name] = torch.randn(shape, generator=seeded) if tensor.dtype == "float" else torch.ones(shape)
    if part == "decoder":
        valid = torch.arange(_TOKENS) < torch.tensor([[5], [_TOKENS]])
        return feeds | {"prompt_mask": valid}
    boxes = torch.rand(_PROMPTS, _BOXES, 4, generator=seeded)
    boxes[0, :3] = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.02, 0.98, 0.01, 0.01], [0.9, 0.1, 0.5, 0.4]])
    labels = torch.randint(0, 2, (_PROMPTS, _BOXES), generator=seeded)
    return feeds | {"input_boxes": boxes, "input_boxes_labels": labels}


def measure_losses(lock: CheckpointLock, folder: Path) -> dict[str, Any]:
    """Return the results of the small checkpoint."""
    return {"chain": list(compare_small(lock, (336, 280), folder))}


def measure_full(lock: CheckpointLock, folder: Path) -> dict[str, Any]:
    """Return the results of the full size; takes minutes and up to 16 GB."""
    tried: tuple[tuple[PartName, int], ...] = (("geometry-encoder", 1008), ("decoder", 672))
    return {
        "vision": [compare_vision(lock, resolution, folder) for resolution in (672, 1008)],
        "islands": [row for part, size in tried for row in try_islands(lock, part, size, folder)],
    }
