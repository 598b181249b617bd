"""The file of what float32 PyTorch says about pictures: one safetensors file, without PyTorch.

It holds the pictures themselves, so that verification needs neither them nor the checkpoint, and, where they are
labelled, what they show. Nothing here judges anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.core.errors import ExportError, RecordError
from sam3_runtime.core.files import written_whole
from sam3_runtime.core.hints import command_for
from sam3_runtime.core.wording import counted

METADATA = "classifier_reference"
FORMAT = 1
LARGEST_FILE = 100_000_000  # bytes
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """N pictures, RGB uint8 [H, W, 3] by name, and their ``logits`` float32 [N, K]; ``truth`` int64 [N] are the classes
    that they show, where that is known. ``versions`` are of the libraries."""

    resolution: int
    checkpoint_digest: str
    versions: Mapping[str, str]
    pictures: Mapping[str, NDArray[np.uint8]]
    logits: FloatArray
    truth: NDArray[np.int64] | None = None


def top_classes(scores: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The ``count`` best classes of each row of ``scores`` [N, K], best first, or all where there are fewer; of equals
    the first. A NaN comes last."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int64)


def accuracy_of(logits: FloatArray, truth: NDArray[np.int64]) -> dict[str, float]:
    """The shares of rows of ``logits`` [N, K] whose best class is ``truth`` [N], and whose five best have it."""
    hits = top_classes(logits, 5) == truth[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}


def check_size(pictures: Sequence[NDArray[np.uint8]], hint: str) -> None:
    """:class:`ExportError` where the pictures make the file too large."""
    size = sum(picture.nbytes for picture in pictures)
    if size > LARGEST_FILE:
        limit = f"{LARGEST_FILE / 1e6:.0f}"
        raise ExportError(f"{counted(len(pictures), 'picture')}: {size / 1e6:.0f} MB, more than {limit}", hint)


def write_reference(path: Path, reference: Reference) -> None:
    """Write the file whole; pictures are stored as pixels."""
    from safetensors.numpy import save_file

    described = {
        "format": FORMAT,
        "resolution": reference.resolution,
        "checkpoint_digest": reference.checkpoint_digest,
        "versions": dict(reference.versions),
        "pictures": list(reference.pictures),
    }
    tensors: dict[str, NDArray[Any]] = {
        f"pictures.{place}": np.ascontiguousarray(image) for place, image in enumerate(reference.pictures.values())
    }
    tensors["logits"] = np.ascontiguousarray(reference.logits)
    if reference.truth is not None:
        tensors["truth"] = reference.truth
    with written_whole(path) as temporary:
        save_file(tensors, str(temporary), {METADATA: json.dumps(described, sort_keys=True)})


def read_reference(path: Path) -> Reference:
    """Read the file; :class:`RecordError` when it is missing, damaged or of another version."""
    from safetensors import SafetensorError, safe_open

    again = f"delete it and run {command_for(path)}"
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {})[METADATA])
            if described["format"] != FORMAT:
                raise RecordError(f"{path} has format {described['format']}, not {FORMAT}", again)
            names = described["pictures"]
            pictures = {name: file.get_tensor(f"pictures.{place}") for place, name in enumerate(names)}
            truth = file.get_tensor("truth") if "truth" in file.keys() else None  # noqa: SIM118 (no __contains__)
            logits = file.get_tensor("logits")
        if logits.ndim != 2 or {len(names), len(pictures), len(logits if truth is None else truth)} != {len(logits)}:
            raise ValueError("as many logits as pictures are needed")
        resolution, digest = described["resolution"], described["checkpoint_digest"]
        return Reference(resolution, digest, described["versions"], pictures, logits, truth)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", f"run {command_for(path)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged or no reference of a classifier: {error}", again) from None
