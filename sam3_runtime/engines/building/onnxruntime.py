"""ONNX Runtime engines: the graph, optimised once and offline, in one file.

The optimised graph is the same whichever CPU it is made on. What `all` adds to `extended`, memory layouts for the CPU's
instruction set, is done when the engine is opened. 8-bit products are in types that are exact on the target CPU
(``settings["products"]``, :func:`sam3_runtime.plan.toolchain.eight_bit_products`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from typing import Any

import onnx
import onnxruntime as ort
from onnx.external_data_helper import load_external_data_for_model

from sam3_runtime.core.errors import BuildError
from sam3_runtime.engines.building import Built, Task
from sam3_runtime.records.records import TensorRecord

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(bool)": "bool"}
_FLOAT_PRODUCTS = {"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "FusedGemm", "ConvTranspose", "NhwcFusedConv"}
_INTEGER_PRODUCTS = ("QLinear", "MatMulInteger", "ConvInteger")


def build(task: Task) -> Built:
    """Optimise the graph at the level in ``task.settings`` and write it to ``task.engine``, weights included.

    Raises :class:`BuildError` where ONNX Runtime refuses the graph or the disk is full.
    """
    graph, engine, settings = task.path, task.engine, task.settings
    levels = ort.GraphOptimizationLevel
    is_basic = settings["optimization"] == "basic"
    options = ort.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if is_basic else levels.ORT_ENABLE_EXTENDED
    # ONNX Runtime chooses the format by the file's suffix, and does not know `.engine`.
    options.add_session_config_entry("session.save_model_format", "ONNX")
    options.optimized_model_filepath = str(engine)
    if settings.get("products") == "u8u8":
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen types of its own, without a common base
        free = shutil.disk_usage(engine.parent).free
        if "serialization failed" in str(error) and free < 1 << 20:  # its message does not mention the full disk
            raise BuildError(
                f"the disk is full: {os.strerror(errno.ENOSPC)} in {engine.parent}, {free} bytes are free",
                "free disk space (sam3-runtime prune shows what nothing uses) and give the same command again",
            ) from None
        raise BuildError(f"ONNX Runtime refuses {graph.name}: {error}", "check the graph, or export it again") from None
    inputs, outputs = tuple(map(_tensor, session.get_inputs())), tuple(map(_tensor, session.get_outputs()))
    del session
    # Add the weights, which ONNX Runtime left in the graph's external data.
    model = onnx.load(engine, load_external_data=False)
    load_external_data_for_model(model, str(graph.parent))
    onnx.save(model, engine)
    counts = Counter(node.op_type for node in model.graph.node)
    integer = sum(count for name, count in counts.items() if name.startswith(_INTEGER_PRODUCTS))
    products = {"float32": sum(counts[name] for name in _FLOAT_PRODUCTS)} | ({"int8": integer} if integer else {})
    return Built(
        inputs=inputs,
        outputs=outputs,
        precision_got=products,
        command=f"onnxruntime {ort.__version__}: {settings['optimization']} optimisation of {graph.name}",
        weights=engine.stat().st_size,
    )


def _tensor(value: Any) -> TensorRecord:
    return TensorRecord(name=value.name, shape=tuple(value.shape), dtype=_TYPES[value.type])
