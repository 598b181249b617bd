"""Name a checkpoint's files in a local folder, and compute the digest that identifies it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sam3_runtime.core.files import digest_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""A checkpoint's only file of weights, or what names the several that it has instead."""


def checkpoint_digest(config: str, weights: Mapping[str, str]) -> str:
    """Return a checkpoint's digest, from the SHA-256 of its ``config.json`` and of each file of weights by name."""
    return digest_of({"config": config, "weights": dict(weights)})


def shards_of(folder: Path) -> list[str]:
    """Return the names of a checkpoint's weight files.

    Raises :class:`OSError`, :class:`ValueError` or :class:`KeyError` for a damaged index.
    """
    if not (folder / INDEX).is_file():
        return [WEIGHTS]
    return sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
