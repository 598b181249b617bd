"""TensorRT-RTX engines: compiled ahead of time on any CPU, for several generations of GPU at once.

No GPU is needed and none is used, so the same engine comes out wherever it is built. The GPU's own code is made from it
when it first runs. No timing cache is given: with one the builder would look for a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sam3_runtime.core.errors import BuildError
from sam3_runtime.core.gpus import as_number, names_of
from sam3_runtime.engines.building import Built, Task
from sam3_runtime.engines.building.tensorrt_common import TYPES, Network, tensors

NEWEST_OPSET = 25  # of the parser that TensorRT-RTX 1.7 shares with TensorRT 11
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION")


def build(task: Task) -> Built:
    """Build ``task``, strongly typed, for the compute capabilities ``task.settings["gpus"]``.

    Raises :class:`BuildError` where the package is missing, a generation is not known to it, or it refuses the graph.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise BuildError(
            f"TensorRT-RTX is not installed here ({error})", "pip install 'sam3-runtime[rtx]': no GPU is needed"
        ) from None
    gpus = task.settings["gpus"]
    targets = [_target(trt, gpu) for gpu in gpus]
    print(f"compiling {task.path.name} for {names_of(gpus)}")
    network = Network(trt, "TensorRT-RTX", task, ["STRONGLY_TYPED"], NEWEST_OPSET)
    network.config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        network.config.set_compute_capability(target, index)
    inputs, outputs = tensors(task, {one.name: one.dtype.name for one in (*network.inputs, *network.outputs)})
    products = _count_products(network.layers)
    serialized = network.compile()
    if serialized is None:
        raise network.refused()
    task.engine.write_bytes(serialized)
    log = network.log
    log.explain_warnings()
    return Built(
        inputs=inputs,
        outputs=outputs,
        precision_got=products,
        command=f"{network.name}: {task.path.name}, strongly typed",
        weights=log.weights,
        scratch=log.memory.get("scratch"),
        activation=log.memory.get("activation"),
    )


def _target(trt: Any, gpu: str) -> Any:
    """TensorRT-RTX's own name for a compute capability such as 8.9."""
    found = getattr(trt.ComputeCapability, f"SM{as_number(gpu)}", None)
    if found is None:
        listed = ", ".join(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
        raise BuildError(
            f"TensorRT-RTX {trt.__version__} does not compile for {names_of([gpu])}",
            f"it supports {listed}: remove the others from build.rtx.gpus, or install a version that supports them",
        )
    return found


def _count_products(layers: Iterable[Any]) -> dict[str, int]:
    """Matrix products and convolutions by the type that they compute in: 8 bits where a dequantised tensor enters.

    A network is read, and not its engine as for TensorRT, since an engine is not loaded without a GPU.
    """
    stored: dict[str, str] = {}  # the type that each dequantised tensor had
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name == "DEQUANTIZE":
            stored[layer.get_output(0).name] = TYPES[layer.get_input(0).dtype.name]
        elif layer.type.name in _PRODUCTS:
            first = layer.get_input(0)
            counts[stored.get(first.name, TYPES[first.dtype.name])] += 1
    return dict(sorted(counts.items()))
