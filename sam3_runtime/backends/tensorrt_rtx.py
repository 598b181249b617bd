"""Says whether a TensorRT-RTX engine fits this machine, before anything of it is loaded.

The record is read first, then the engine's header, through TensorRT-RTX's own check. What fits no card of this machine
is told apart from what fits no card at all, each with the command that helps. Running them is not in this version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam3_runtime.backends.base import Engine
from sam3_runtime.config import EngineRecord
from sam3_runtime.errors import CannotRunHere, EngineError
from sam3_runtime.gpus import NAMES, Gpu, find_gpu, names_of
from sam3_runtime.toolchain import probe, why_not_run

_HINT = "take it to an RTX card: sam3-runtime pack {folder} out.tar; there: unpack, then sam3-runtime verify"


def open_engine(path: Path, record: EngineRecord, rebuild: str) -> Engine:
    """Check the engine, and say why it does not run.

    Raises :class:`EngineError` for an engine that runs nowhere with what is installed here, or not on this card;
    :class:`CannotRunHere` for one that is sound.
    """
    import tensorrt_rtx as trt

    check_version(path, record, rebuild)
    gpu = find_gpu()
    check_header(path, record, diagnose(trt, path), gpu, rebuild)
    reason = why_not_run("tensorrt-rtx")
    hint = _HINT.format(folder=path.parent) if gpu is None else "a later version runs it: pip install -U sam3-runtime"
    raise CannotRunHere(reason or "TensorRT-RTX engines are not run in this version", hint)


def check_version(path: Path, record: EngineRecord, rebuild: str) -> None:
    """:class:`EngineError` unless the TensorRT-RTX installed here is the one that built the engine."""
    built, here = record.toolchain.version, probe("tensorrt-rtx").version
    if built != here:
        raise EngineError(
            f"{path} was built with TensorRT-RTX {built}, and {here} is installed here",
            f"install that one: pip install tensorrt-rtx-cu12=={built}; or {rebuild}",
        )


def diagnose(trt: Any, path: Path) -> set[str]:
    """What TensorRT-RTX says against the engine, by its header alone: names of ``EngineInvalidityDiagnostics``.

    Without a driver it can only tell that the header is not its own (``MALFORMED_ENGINE``).
    """
    runtime = trt.Runtime(_quiet_logger(trt))
    with open(path, "rb") as file:
        header = file.read(runtime.engine_header_size)
    validity, bits = runtime.get_engine_validity(header)
    if validity == trt.EngineValidity.VALID:
        return set()
    return {name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(bit)}


def _quiet_logger(trt: Any) -> Any:
    """A logger that drops what it is told: the diagnostics say it once more, and better."""

    class Quiet(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            pass

    return Quiet()


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
