"""TensorRT's calibrators (10 and older): the three classes under one roof, with or without pictures.

TensorRT calls them from C++ that knows no exception: nothing here may raise. Knows no frame and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sam3_runtime.engines.building import CalibrationCache
from sam3_runtime.plan.settings import Algorithm

_CLASSES: dict[Algorithm, str] = {
    "entropy": "IInt8EntropyCalibrator2",
    "minmax": "IInt8MinMaxCalibrator",
    "percentile": "IInt8LegacyCalibrator",
}
_REGRESSION_CUTOFF = 1.0
"""Of the largest value: the legacy calibrator's range is then its quantile's alone."""


def make_calibrator(
    trt: Any,
    algorithm: Algorithm,
    percentile: float | None,
    *,
    batch: int,
    next_batch: Callable[[], int | None],
    cache: bytes | None = None,
    keep: Callable[[bytes], None] | None = None,
) -> Any:
    """An ``IInt8Calibrator`` of the algorithm's class.

    ``next_batch`` uploads ``batch`` images and returns their address on the GPU, or nothing when there are no more;
    ``cache`` is what is known already, ``keep`` is given what was found. Neither may raise. ``was_asked`` tells whether
    TensorRT wanted pictures.
    """
    base: Any = getattr(trt, _CLASSES[algorithm])

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.was_asked = False

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:  # noqa: ARG002 (NVIDIA's names, here and below)
            self.was_asked = True
            address = next_batch()
            return None if address is None else [address]

        def read_calibration_cache(self) -> bytes | None:
            return cache

        def write_calibration_cache(self, cache: Any) -> None:
            if keep is not None:
                keep(bytes(cache))

        # Of the legacy calibrator alone.
        def get_quantile(self) -> float:
            return (100.0 if percentile is None else percentile) / 100

        def get_regression_cutoff(self) -> float:
            return _REGRESSION_CUTOFF

        def read_histogram_cache(self, length: int) -> None:
            pass

        def write_histogram_cache(self, pointer: Any, length: int) -> None:
            pass

    return Calibrator()


def cached_calibrator(trt: Any, cache: CalibrationCache) -> Any:
    """A calibrator that has nothing but its cache: it was asked for pictures where the cache does not match."""
    data = cache.path.read_bytes()
    return make_calibrator(trt, cache.algorithm, cache.percentile, batch=1, next_batch=lambda: None, cache=data)
