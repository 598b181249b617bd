"""The host as a device: arrays are NumPy's, and the steps around the engines are the functions of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sam3_runtime.engines.running.base import AnyArray, Array, Device
from sam3_runtime.imaging.postprocess import Finish, Size, begin_masks
from sam3_runtime.imaging.preprocess import Image, preprocess
from sam3_runtime.plan.toolchain import cpu_name
from sam3_runtime.records.records import Preprocessing


class HostDevice(Device):
    """The processor; see :class:`Device`."""

    def __init__(self) -> None:
        self.name = cpu_name()

    def preprocess(self, images: Sequence[Image], resolution: int, preprocessing: Preprocessing, dtype: str) -> Array:
        """Return ``images`` as pixels [B, 3, R, R]."""
        return np.asarray(preprocess(images, resolution, preprocessing), dtype)

    def fetch(self, arrays: Mapping[str, AnyArray]) -> dict[str, Array]:
        """Return ``arrays`` as they are."""
        return {name: np.asarray(array) for name, array in arrays.items()}

    def begin_masks(self, logits: AnyArray, row: int, rows: NDArray[np.intp], size: Size) -> Finish:
        """Begin the masks ``rows`` of prompt ``row``; see :meth:`Device.begin_masks`."""
        return begin_masks(np.asarray(logits), row, rows, size)
