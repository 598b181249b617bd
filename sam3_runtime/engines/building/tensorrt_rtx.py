"""TensorRT-RTX engines: compiled ahead of time on any CPU, for several generations of GPU at once.

No GPU is needed and none is looked for, so the same engine comes out wherever it is built. The GPU's own code is made
from it when it first runs. A timing cache is never given: it would make the builder look for a GPU.
"""

from __future__ import annotations

from typing import Any

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.gpus import as_number, names_of
from sam3_runtime.engines.building import Built, Task
from sam3_runtime.engines.building.tensorrt_common import Flavour, build_network

NEWEST_OPSET = 25  # of the parser that TensorRT-RTX 1.7 shares with TensorRT 11


def build(task: Task) -> Built:
    """Build ``task`` for the compute capabilities ``task.settings["gpus"]``.

    Raises :class:`BuildError` where the package is missing, a generation is not known to it, or it refuses the graph.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise BuildError(
            f"TensorRT-RTX is not installed here ({error})", "pip install 'sam3-runtime[rtx]': no GPU is needed"
        ) from None
    flavour = Flavour(trt, "TensorRT-RTX", NEWEST_OPSET)
    gpus = task.settings["gpus"]
    targets = [_target(trt, gpu) for gpu in gpus]

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(targets)
        for place, target in enumerate(targets):
            config.set_compute_capability(target, place)

    print(f"compiling {task.path.name} for {names_of(gpus)}")
    return build_network(flavour, task, configure)


def _target(trt: Any, gpu: str) -> Any:
    """TensorRT-RTX's own name for a compute capability such as 8.9."""
    found = getattr(trt.ComputeCapability, f"SM{as_number(gpu)}", None)
    if found is None:
        listed = ", ".join(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
        raise BuildError(
            f"TensorRT-RTX {trt.__version__} does not compile for {names_of([gpu])}",
            f"it knows {listed}: take the others out of build.rtx.gpus, or install a version that knows them",
        )
    return found
