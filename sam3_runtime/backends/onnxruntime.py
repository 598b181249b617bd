"""Runs engines of the backend ``onnxruntime``: graphs that were optimised when they were built.

The engine file is an ONNX model that ONNX Runtime optimised offline, so it is loaded without optimising again. Runs on
the CPU unless other execution providers are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from sam3_runtime.backends.base import Array, Engine, EngineOptions
from sam3_runtime.config import EngineRecord
from sam3_runtime.errors import EngineError
from sam3_runtime.variants import Variant

CPU = "CPUExecutionProvider"


class OnnxRuntimeEngine(Engine):
    """An ``InferenceSession``. Its runs are safe, and do run, side by side."""

    concurrent = True

    def __init__(
        self, path: Path, record: EngineRecord, options: EngineOptions, variant: Variant | None, rebuild: str
    ) -> None:
        super().__init__(record, variant)
        check_version(record, rebuild)
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
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
