"""ONNX Runtime engines: the graph, optimised once and offline, in one file.

The optimised graph is the same whichever CPU it is made on. What `all` adds to `extended`, memory layouts for the CPU's
instruction set, is left to the moment when the engine is opened. 8-bit products are in types that are exact on the CPU
that the engine is for (``settings["products"]``, :func:`sam3_runtime.plan.toolchain.eight_bit_products`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx.external_data_helper import load_external_data_for_model

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Built, Task
from sam3_runtime.records.records import TensorRecord

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(bool)": "bool"}
_FLOAT_PRODUCTS = {"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "FusedGemm", "ConvTranspose", "NhwcFusedConv"}


def build(task: Task) -> Built:
    """Optimise the graph at the level that ``task.settings`` name and write it to ``task.engine``, weights included.

    Raises :class:`BuildError` where ONNX Runtime refuses the graph or the disk is full.
    """
    graph, engine, settings = task.path, task.engine, task.settings
    levels = {
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    }
    options = ort.SessionOptions()
    options.graph_optimization_level = levels[settings["optimization"]]
    # ONNX Runtime chooses the format by the file's ending, and `.engine` is none that it knows.
    options.add_session_config_entry("session.save_model_format", "ONNX")
    options.optimized_model_filepath = str(engine)
    if settings.get("products") == "u8u8":
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen types of its own, without a common base
        if "serialization failed" in str(error):
            _refuse_full_disk(engine)
        raise BuildError(f"ONNX Runtime refuses {graph.name}: {error}", "check the graph, or export it again") from None
    inputs = tuple(_tensor(value) for value in session.get_inputs())
    outputs = tuple(_tensor(value) for value in session.get_outputs())
    del session
    return Built(
        inputs=inputs,
        outputs=outputs,
        precision_got=_make_self_contained(engine, graph.parent),
        command=f"onnxruntime {ort.__version__}: {settings['optimization']} optimisation of {graph.name}",
        weights=engine.stat().st_size,
    )


def _refuse_full_disk(engine: Path) -> None:
    """ONNX Runtime does not say that the disk is full; what it wrote until then fills it."""
    free = shutil.disk_usage(engine.parent).free
    if free < 1 << 20:
        raise BuildError(
            f"the disk is full: {os.strerror(errno.ENOSPC)} in {engine.parent}, {free} bytes are free",
            "free some room (sam3-runtime prune shows what nothing uses) and give the same command again",
        )


def _tensor(value: Any) -> TensorRecord:
    return TensorRecord(name=value.name, shape=tuple(value.shape), dtype=_TYPES[value.type])


def _make_self_contained(engine: Path, weights: Path) -> dict[str, int]:
    """Pull in the weights that ONNX Runtime left in the graph's external data, which lies in the folder ``weights``.

    Returns matrix products and convolutions by the type that they compute in.
    """
    model = onnx.load(engine, load_external_data=False)
    load_external_data_for_model(model, str(weights))
    onnx.save(model, engine)
    counts = Counter(node.op_type for node in model.graph.node)
    integer = sum(
        count for name, count in counts.items() if name.startswith(("QLinear", "MatMulInteger", "ConvInteger"))
    )
    floating = sum(count for name, count in counts.items() if name in _FLOAT_PRODUCTS)
    return {"float32": floating} | ({"int8": integer} if integer else {})
