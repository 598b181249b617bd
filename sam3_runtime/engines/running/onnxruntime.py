"""Runs engines of the backend ``onnxruntime``: ONNX models that ONNX Runtime optimised when they were built.

They are loaded without optimising again, except for the memory layouts of ``optimization: all``. Runs on the CPU unless
other execution providers are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.engines.running.base import Array, Device, Engine, EngineOptions
from sam3_runtime.records.records import EngineRecord

CPU = "CPUExecutionProvider"
_PRODUCT = (
    b'\x08\x08:t\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01g*+\x08 \x08\x01\x10\x03B\x01bJ ' + b"\x7f" * 32 +
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08 "
    b"b\x13\n\x01c\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x11"
)  # fmt: skip
"""An ONNX graph: MatMulInteger of ``a`` uint8 [1, 32] with 32 times 127 as int8, written without the onnx package."""


class OnnxRuntimeEngine(Engine):
    """An ``InferenceSession``. Its runs may overlap."""

    concurrent = True

    def __init__(self, path: Path, record: EngineRecord, options: EngineOptions) -> None:
        super().__init__(record)
        settings = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        layouts = record.settings.get("optimization") == "all"
        settings.graph_optimization_level = levels.ORT_ENABLE_ALL if layouts else levels.ORT_DISABLE_ALL
        settings.log_severity_level = 3  # errors; graphs optimised at build time draw warnings
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        known = ort.get_available_providers()
        providers = list(options.providers or (CPU,))
        for name in providers:
            if name not in known:
                raise EngineError(
                    f"this ONNX Runtime does not have the execution provider {name!r}",
                    f"it has {', '.join(known)}; others come with other packages, such as onnxruntime-gpu",
                )
        try:
            # ONNX Runtime refuses external data behind a symbolic link: give it the file itself.
            self._session: Any = ort.InferenceSession(str(path.resolve()), settings, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            message = f"{path} does not open in ONNX Runtime: {_first_line(error)}"
            raise EngineError(message, rebuild_hint(path)) from error
        self._names = [spec.name for spec in record.outputs]

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise EngineError(f"the {self.record.part} is closed", "open the variant again")
        try:
            results = self._session.run(self._names, dict(feeds))
        except Exception as error:  # as above
            raise EngineError(f"the {self.record.part} failed to run: {_first_line(error)}") from error
        return dict(zip(self._names, results, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def check_engine(path: Path, record: EngineRecord) -> None:
    """Raise :class:`EngineError` for an engine that would run wrongly here.

    That is one of another series of ONNX Runtime, whose own operators this one may not know or may run differently, or
    one whose 8-bit products would saturate on this CPU without an error.
    """
    built, here = record.toolchain.version, ort.__version__
    if _series(built) != _series(here):
        raise EngineError(
            f"the {record.part} was built with ONNX Runtime {built}, and {here} is installed here",
            f"{rebuild_hint(path)}, or install the one that built it: pip install 'onnxruntime~={_series(built)}.0'",
        )
    if record.settings.get("products") == "u8s8" and saturates():
        raise EngineError(
            f"the {record.part} was built for CPUs with VNNI, which this one lacks: its 8-bit products would saturate",
            rebuild_hint(path),
        )


def open_engine(path: Path, record: EngineRecord, options: EngineOptions, _device: Device) -> OnnxRuntimeEngine:
    """Open an engine that :func:`check_engine` accepted. Raises :class:`EngineError`."""
    return OnnxRuntimeEngine(path, record, options)


@cache
def saturates() -> bool:
    """Return whether ONNX Runtime's products of uint8 and int8 saturate on this CPU, as on x86 without VNNI."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_PRODUCT, options, providers=[CPU])
    product = session.run(None, {"a": np.full((1, 32), 255, np.uint8)})[0]
    return int(product[0, 0]) != 32 * 255 * 127


def _series(version: str) -> str:
    match = re.match(r"\d+\.\d+", version)
    return match[0] if match else version


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
