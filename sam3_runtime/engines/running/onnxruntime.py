"""Runs engines of the backend ``onnxruntime``: graphs that were optimised when they were built.

The engine file is an ONNX model that ONNX Runtime optimised offline, so it is loaded without optimising again, but for
the memory layouts of ``optimization: all``. Runs on the CPU unless other execution providers are asked for.
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
from sam3_runtime.engines.running.base import Array, Device, Engine, EngineOptions
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord

CPU = "CPUExecutionProvider"


class OnnxRuntimeEngine(Engine):
    """An ``InferenceSession``. Its runs are safe, and do run, side by side."""

    concurrent = True

    def __init__(
        self, path: Path, record: EngineRecord, options: EngineOptions, variant: Variant | None, rebuild: str
    ) -> None:
        super().__init__(record, variant)
        settings = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        layouts = record.settings.get("optimization") == "all"
        settings.graph_optimization_level = levels.ORT_ENABLE_ALL if layouts else levels.ORT_DISABLE_ALL
        settings.log_severity_level = 3  # errors; graphs optimised at build time draw warnings
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        providers = _known_providers(options.providers or (CPU,))
        try:
            # ONNX Runtime refuses external data that stands behind a symbolic link: hand it the file itself.
            self._session: Any = ort.InferenceSession(str(path.resolve()), settings, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise EngineError(f"{path} does not open in ONNX Runtime: {_first_line(error)}", rebuild) from error
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
        self._session = None


def check_engine(_path: Path, record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` for an engine of another ONNX Runtime, or whose 8-bit products would be wrong here."""
    check_version(record, rebuild)
    _check_products(record, rebuild)


def open_engine(
    path: Path, record: EngineRecord, options: EngineOptions, _device: Device, variant: Variant | None, rebuild: str
) -> OnnxRuntimeEngine:
    """Open an engine that :func:`check_engine` let pass. Raises :class:`EngineError`."""
    return OnnxRuntimeEngine(path, record, options, variant, rebuild)


def check_version(record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` unless this ONNX Runtime is of the series that optimised the graph.

    Optimised graphs hold operators of that series' own, which other series may not know or may run otherwise.
    """
    built, here = record.toolchain.version, ort.__version__
    if _series(built) != _series(here):
        raise EngineError(
            f"the {record.part} was built with ONNX Runtime {built}, and {here} is installed here",
            f"{rebuild}, or install the one that built it: pip install 'onnxruntime~={_series(built)}.0'",
        )


def _check_products(record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` for 8-bit products in types that saturate on this CPU: results would be wrong in silence."""
    if record.settings.get("products") == "u8s8" and saturates():
        raise EngineError(
            f"the {record.part} was built for CPUs with VNNI, and this one has none: its 8-bit products would saturate",
            rebuild,
        )


_PRODUCT = (
    b'\x08\x08:t\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01g*+\x08 \x08\x01\x10\x03B\x01bJ ' + b"\x7f" * 32 +
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08 "
    b"b\x13\n\x01c\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x11"
)  # fmt: skip
"""An ONNX graph: MatMulInteger of ``a`` uint8 [1, 32] with 32 times 127 as int8, written without the onnx package."""


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's products of uint8 and int8 saturate on this CPU, as they do on x86 without VNNI."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_PRODUCT, options, providers=[CPU])
    product = session.run(None, {"a": np.full((1, 32), 255, np.uint8)})[0]
    return int(product[0, 0]) != 32 * 255 * 127


def _series(version: str) -> str:
    match = re.match(r"\d+\.\d+", version)
    return match[0] if match else version


def _known_providers(asked: tuple[str, ...]) -> list[str]:
    known = ort.get_available_providers()
    for name in asked:
        if name not in known:
            raise EngineError(
                f"this ONNX Runtime has no execution provider {name!r}",
                f"it has {', '.join(known)}; others come with other packages, such as onnxruntime-gpu",
            )
    return list(asked)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
