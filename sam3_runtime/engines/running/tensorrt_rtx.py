"""Runs engines of TensorRT-RTX: :mod:`.tensorrt` with two additions.

These are TensorRT-RTX's own check of an engine's header, and kernels that are compiled when an engine first runs.

The record is checked first, then the engine's header.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.gpus import NAMES, Gpu, as_number, find_gpu, names_of
from sam3_runtime.core.hints import rebuild_hint
from sam3_runtime.engines.running import tensorrt
from sam3_runtime.engines.running.base import EngineOptions
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.tensorrt_logger import logger_of
from sam3_runtime.records.records import EngineRecord

log = logging.getLogger(__name__)


class RtxEngine(tensorrt.TensorRtEngine):
    """A TensorRT-RTX engine with its runtime cache.

    That is a file beside the engine with the kernels that were compiled for this GPU. TensorRT-RTX itself refuses the
    cache of another GPU, driver or version.
    """

    def __init__(self, path: Path, record: EngineRecord, options: EngineOptions, device: CudaDevice) -> None:
        real = path.resolve()
        gpu = f"sm{as_number(device.cuda.compute_capability)}"
        self._file = real.with_name(f"{real.name}.{record.sha256[:12]}.{gpu}.kernels")
        self._cache: Any = None
        self._stored = b""
        super().__init__(path, record, options, device)

    def _make_context(self, trt: Any) -> Any:
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._cache = config.create_runtime_cache()
        stored = self._file.read_bytes() if self._file.is_file() else b""
        if stored and self._cache.deserialize(stored):
            self._stored = stored
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def close(self) -> None:
        """Store the compiled kernels, and free the engine."""
        if self._context is not None and self._cache is not None:
            with self._cuda.current():
                compiled = bytes(self._cache.serialize())
            if compiled != self._stored:
                try:
                    write_atomically(self._file, compiled)
                except OSError as error:  # in a read-only folder the next start compiles again
                    log.warning("compiled kernels were not stored: %s", error)
        self._cache = None
        super().close()


def check_engine(path: Path, record: EngineRecord) -> None:
    """Raise :class:`EngineError` for an engine that runs on no GPU with what is installed here."""
    import tensorrt_rtx as trt

    tensorrt.check_engine(path, record)
    check_header(path, record, _diagnose(trt, path), None)


def open_engine(path: Path, record: EngineRecord, options: EngineOptions, device: CudaDevice) -> RtxEngine:
    """Open an engine that :func:`check_engine` accepted.

    Its first run on a GPU compiles kernels, which are stored beside the engine. Raises :class:`EngineError`, also for
    one that does not run on the device's GPU.
    """
    import tensorrt_rtx as trt

    cuda, first = device.cuda, find_gpu()  # all GPUs have the same driver
    with cuda.current():
        found = _diagnose(trt, path)
    gpu = Gpu(cuda.name, cuda.compute_capability, first.driver if first else "unknown", cuda.memory()[1])
    check_header(path, record, found, gpu)
    return RtxEngine(path, record, options, device)


def _diagnose(trt: Any, path: Path) -> set[str]:
    """Names of ``EngineInvalidityDiagnostics``, by the engine's header alone.

    Without a driver TensorRT-RTX can only check whether the header is its own (``MALFORMED_ENGINE``).
    """
    runtime = trt.Runtime(logger_of(trt))
    with open(path, "rb") as file:
        header = file.read(runtime.engine_header_size)
    validity, bits = runtime.get_engine_validity(header)
    if validity == trt.EngineValidity.VALID:
        return set()
    return {name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(bit)}


def check_header(path: Path, record: EngineRecord, found: set[str], gpu: Gpu | None) -> None:
    """Raise :class:`EngineError` for the first of the diagnostics ``found``.

    Those are counted that keep the engine from running on ``gpu``, or, where there is none, on any.
    """
    rebuild = rebuild_hint(path)
    checks = {
        "MALFORMED_ENGINE": (f"{path} is no engine of TensorRT-RTX {record.toolchain.version}, or is damaged", rebuild),
        "VERSION_MISMATCH": (f"{path} is of another TensorRT-RTX than the one installed here", rebuild),
    }
    if gpu is not None:
        built = names_of(map(str, record.settings.get("gpus", [])))
        generation = next((name for name, known in NAMES.items() if known == gpu.compute_capability), None)
        add = f"add {generation or gpu.compute_capability} to build: {{rtx: {{gpus: […]}}}} in variants.yaml"
        driver = f"{path} needs a newer NVIDIA driver than {gpu.driver}"
        checks |= {
            "UNSUPPORTED_CC": (
                f"{path} was compiled for {built}, and the {gpu.name} is {names_of([gpu.compute_capability])}",
                f"where it was built, {add} and {rebuild}",
            ),
            "OLD_CUDA_DRIVER": (driver, "update the driver"),
            "OLD_CUDA_RUNTIME": (driver, "update the driver"),
            "INSUFFICIENT_GPU_MEMORY": (
                f"{path} needs more memory than the {gpu.name} has ({gpu.memory >> 20} MiB)",
                f"choose a smaller batch or resolution: sam3-runtime info {path.parent} lists the memory of each",
            ),
            "CUDA_ERROR": (
                f"CUDA failed on the {gpu.name} while {path} was checked",
                "run nvidia-smi; update the driver",
            ),
        }
    for name, message in checks.items():
        if name in found:
            raise EngineError(*message)
