"""What TensorRT-RTX adds to :mod:`.tensorrt`: its own check of an engine's header, and kernels that are compiled when
an engine first runs.

The record is read first, then the engine's header. What fits no card of this machine is told apart from what fits no
card at all, each with the command that helps.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.files import write_atomically
from sam3_runtime.core.gpus import NAMES, Gpu, as_number, find_gpu, names_of
from sam3_runtime.engines.running.base import EngineOptions
from sam3_runtime.engines.running.cuda import Cuda
from sam3_runtime.engines.running.cuda_device import CudaDevice
from sam3_runtime.engines.running.tensorrt import TensorRtEngine
from sam3_runtime.engines.running.tensorrt_logger import logger_of
from sam3_runtime.plan.toolchain import probe
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord

log = logging.getLogger(__name__)


def check_engine(path: Path, record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` for an engine that runs on no GPU with what is installed here."""
    import tensorrt_rtx as trt

    check_version(path, record, rebuild)
    check_header(path, record, diagnose(trt, path), None, rebuild)


def open_engine(
    path: Path, record: EngineRecord, options: EngineOptions, device: CudaDevice, variant: Variant | None, rebuild: str
) -> TensorRtEngine:
    """Open an engine that :func:`check_engine` let pass; its first run on a card compiles, and later ones find that
    beside the engine. Raises :class:`EngineError`, also for one that does not run on the GPU that is opened."""
    import tensorrt_rtx as trt

    cuda = device.cuda
    with cuda.current():
        found = diagnose(trt, path)
    first = find_gpu()  # the driver is one for all of them
    gpu = Gpu(cuda.name, cuda.compute_capability, first.driver if first else "unknown", cuda.memory()[1])
    check_header(path, record, found, gpu, rebuild)
    return RtxEngine(trt, path, record, options, device, variant, rebuild)


class RtxEngine(TensorRtEngine):
    """A TensorRT-RTX engine with its runtime cache: the kernels that were compiled for this card, in a file beside the
    engine. The library itself refuses one of another card, driver or version."""

    def __init__(
        self,
        trt: Any,
        path: Path,
        record: EngineRecord,
        options: EngineOptions,
        device: CudaDevice,
        variant: Variant | None,
        rebuild: str,
    ) -> None:
        self._file = cache_file(path, record, device.cuda)
        self._cache: Any = None
        self._kept = b""

        def make_context(engine: Any) -> Any:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            self._cache = config.create_runtime_cache()
            if self._file.is_file():
                data = self._file.read_bytes()
                if self._cache.deserialize(data):
                    self._kept = data
            config.set_runtime_cache(self._cache)
            return engine.create_execution_context(config)

        super().__init__(path, record, device.cuda, options, variant, rebuild, make_context)

    def close(self) -> None:
        if self._context is not None and self._cache is not None:
            with self._cuda.current():
                compiled = bytes(self._cache.serialize())
            if compiled != self._kept:
                self._keep(compiled)
        self._cache = None
        super().close()

    def _keep(self, compiled: bytes) -> None:
        try:
            write_atomically(self._file, compiled)
        except OSError as error:  # a read-only folder costs the next start its time, and nothing else
            log.warning("compiled kernels were not kept: %s", error)


def cache_file(path: Path, record: EngineRecord, cuda: Cuda) -> Path:
    """Where the compiled kernels of an engine lie: beside it (where links lead), by engine and kind of GPU."""
    real = path.resolve()
    return real.with_name(f"{real.name}.{record.sha256[:12]}.sm{as_number(cuda.compute_capability)}.kernels")


def check_version(path: Path, record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` unless the TensorRT-RTX installed here is the one that built the engine."""
    built, here = record.toolchain.version, probe(record.backend).version
    if built != here:
        raise EngineError(
            f"{path} was built with TensorRT-RTX {built}, and {here} is installed here",
            f"install that one: pip install tensorrt-rtx-cu12=={built}; or {rebuild}",
        )


def diagnose(trt: Any, path: Path) -> set[str]:
    """What TensorRT-RTX says against the engine, by its header alone: names of ``EngineInvalidityDiagnostics``.

    Without a driver it can only tell that the header is not its own (``MALFORMED_ENGINE``).
    """
    runtime = trt.Runtime(logger_of(trt))  # the diagnoses say once more, and better, what it is told
    with open(path, "rb") as file:
        header = file.read(runtime.engine_header_size)
    validity, bits = runtime.get_engine_validity(header)
    if validity == trt.EngineValidity.VALID:
        return set()
    return {name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(bit)}


def check_header(path: Path, record: EngineRecord, found: set[str], gpu: Gpu | None, rebuild: str) -> None:
    """:class:`EngineError` for the first thing in ``found`` that keeps the engine from ever running here."""
    if "MALFORMED_ENGINE" in found:
        raise EngineError(f"{path} is no engine of TensorRT-RTX {record.toolchain.version}, or is damaged", rebuild)
    if "VERSION_MISMATCH" in found:
        raise EngineError(f"{path} is of another TensorRT-RTX than the one installed here", rebuild)
    if gpu is None:
        return  # the rest is about a card
    if "UNSUPPORTED_CC" in found:
        raise wrong_generation(path, record, gpu, rebuild)
    if found & {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME"}:
        raise EngineError(f"{path} needs a newer NVIDIA driver than {gpu.driver}", "update the driver")
    if "INSUFFICIENT_GPU_MEMORY" in found:
        raise EngineError(
            f"{path} needs more memory than the {gpu.name} has ({gpu.memory >> 20} MiB)",
            f"sam3-runtime info {path.parent} says what each variant takes: choose a smaller batch or resolution",
        )
    if "CUDA_ERROR" in found:
        raise EngineError(
            f"CUDA failed on the {gpu.name} while {path} was checked", "try nvidia-smi; update the driver"
        )


def wrong_generation(path: Path, record: EngineRecord, gpu: Gpu, rebuild: str) -> EngineError:
    """The error for a card of a generation that the engine was not compiled for."""
    built = [str(one) for one in record.settings.get("gpus", [])]
    here = gpu.compute_capability
    name = next((name for name, known in NAMES.items() if known == here), here)
    return EngineError(
        f"{path} was compiled for {names_of(built)}, and the {gpu.name} is {names_of([here])}",
        f"where it was built, add {name} to build: {{rtx: {{gpus: […]}}}} in variants.yaml and {rebuild}",
    )
