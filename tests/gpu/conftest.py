"""What needs an NVIDIA GPU: ``python -m pytest -m gpu tests/gpu``, on the machine that has it.

``SAM3_GPU_VARIANT`` names the folder of a variant that was built there. Neither PyTorch nor the workflow is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sam3_runtime.core.errors import SourceError
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running.cuda import Cuda
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.families.sam3.pipeline import Pipeline
from sam3_runtime.imaging.preprocess import Image
from sam3_runtime.media.sources import load_image

VARIANT = "SAM3_GPU_VARIANT"


@pytest.fixture(scope="module")
def device() -> Iterator[CudaDevice]:
    """The first GPU."""
    made = CudaDevice(Cuda())
    yield made
    made.close()


@pytest.fixture(scope="session")
def directory() -> Path:
    """The folder of the variant that is tested."""
    named = os.environ.get(VARIANT)
    if not named:
        pytest.fail(f"set {VARIANT} to the folder of a built variant, such as engines/b8_q50_r672")
    return Path(named)


@pytest.fixture(scope="module")
def pipeline(directory: Path) -> Iterator[Pipeline]:
    with load(directory) as opened:
        yield opened


@pytest.fixture(scope="session")
def pictures() -> list[Image]:
    """Photographs that scikit-image ships, of four sizes; made-up pictures of the same sizes where it is not there."""
    sizes = {"coffee": (400, 600), "astronaut": (512, 512), "chelsea": (300, 451), "motorcycle_left": (500, 741)}
    found = []
    for place, (name, size) in enumerate(sizes.items()):
        try:
            found.append(load_image(f"package:skimage/data/{name}.png"))
        except SourceError:
            found.append(made_up(*size, seed=place))
    return found


def made_up(height: int, width: int, seed: int = 0) -> Image:
    """A picture of large blots with some noise."""
    import cv2

    random = np.random.default_rng(seed)
    blots = cv2.resize(random.uniform(0, 255, (7, 9, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = blots.reshape(height, width, 3) + random.normal(0, 8, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)
