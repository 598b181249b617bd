"""TensorRT's three calibrators (10 and older), with or without images.

TensorRT calls them from C++, which handles no Python exception: nothing here may raise.
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


def make_calibrator(
    trt: Any,
    algorithm: Algorithm,
    percentile: float | None,
    *,
    batch: int = 1,
    next_batch: Callable[[], int | None] = lambda: None,
    cache: bytes | None = None,
    keep: Callable[[bytes], None] = lambda _: None,
) -> Any:
    """Return an ``IInt8Calibrator`` of the algorithm's class.

    ``next_batch`` uploads ``batch`` images and returns their address on the GPU, or None when there are no more;
    ``cache`` is the known calibration cache, ``keep`` gets the new one. Neither may raise. ``was_asked`` is whether
    TensorRT requested images.
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
            keep(bytes(cache))

        # Only the legacy calibrator has these.
        def get_quantile(self) -> float:
            return (100.0 if percentile is None else percentile) / 100

        def get_regression_cutoff(self) -> float:
            return 1.0  # of the largest value: the range is then only its quantile's

        def read_histogram_cache(self, length: int) -> None:
            pass

        def write_histogram_cache(self, pointer: Any, length: int) -> None:
            pass

    return Calibrator()


def cached_calibrator(trt: Any, cache: CalibrationCache) -> Any:
    """Return a calibrator with a cache and no images: TensorRT asks it for images where the cache does not match."""
    return make_calibrator(trt, cache.algorithm, cache.percentile, cache=cache.path.read_bytes())
