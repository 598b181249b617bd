"""Safetensors files with a JSON description in their metadata, such as references. NumPy; no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import written_whole
from sam3_runtime.core.hints import command_for

T = TypeVar("T")


def write_tensors(path: Path, key: str, description: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write ``tensors`` (NumPy) with ``description`` as the metadata entry ``key``; the file appears when complete."""
    import numpy as np
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with written_whole(path) as temporary:
        save_file(contiguous, str(temporary), {key: json.dumps(description, sort_keys=True)})


def read_tensors(path: Path, key: str, version: int, parse: Callable[[dict[str, Any], dict[str, Any]], T]) -> T:
    """Return ``parse(description, tensors)`` of a file whose description has the ``format`` ``version``.

    Raises :class:`RecordError` if the file is missing, damaged, of another kind or of another format version.
    """
    from safetensors import SafetensorError, safe_open

    again = f"delete it and run {command_for(path)}"
    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {})[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, safe_open has no __iter__
        if description["format"] == version:
            return parse(description, tensors)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", f"run {command_for(path)}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged or of another kind: {error}", again) from None
    raise RecordError(f"{path} has format {description['format']}, not {version}", again)
