"""Finds out what engines can be built with here, and holds a work folder to one backend and one checkpoint.

``toolchain.json`` and ``checkpoint.lock`` in the work folder remember both. Where nothing can be probed (a laptop that
plans, the environment that exports), the record stands. Pure: the Snakefile imports it while it plans.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from sam3_runtime.config import Backend, CheckpointLock, Toolchain
from sam3_runtime.contract import ModelDims
from sam3_runtime.errors import WorkFolderError
from sam3_runtime.gpus import find_gpu
from sam3_runtime.settings import VariantsFile

BUILDERS: tuple[Backend, ...] = ("onnxruntime", "tensorrt-rtx")
"""The backends that this version builds engines for; ``backend: auto`` is the first, the others are asked for."""
BUILDER_MODULES = {
    "onnxruntime": ("onnxruntime",),
    "tensorrt-rtx": ("tensorrt_common", "tensorrt_messages", "tensorrt_rtx"),
}
"""The modules of ``builders/`` that decide what an engine of a backend is."""

_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "tensorrt-rtx": ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx"),
}
NOT_INSTALLED = "not installed"
NO_GPU = "no NVIDIA GPU"


def probe(backend: Backend) -> Toolchain:
    """What is installed here for ``backend``; its version is ``NOT_INSTALLED`` where nothing is.

    TensorRT-RTX compiles for generations, whatever card is in the machine: its toolchain names no GPU.
    """
    for distribution in _DISTRIBUTIONS[backend]:
        try:
            return Toolchain(backend=backend, version=metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    return Toolchain(backend=backend, version=NOT_INSTALLED)


def resolve(settings: VariantsFile, folder: Path) -> Toolchain:
    """The toolchain that ``folder`` is built with: probed, or as recorded where nothing can be probed.

    Raises :class:`WorkFolderError` when the folder was built with another backend.
    """
    backend: Backend = BUILDERS[0] if settings.backend == "auto" else settings.backend
    record = folder / "toolchain.json"
    recorded = Toolchain.read(record) if record.is_file() else None
    if recorded and recorded.backend != backend:
        raise WorkFolderError(
            f"this work folder was built with the backend {recorded.backend} ({record}), "
            f"and `backend: {settings.backend}` now means {backend}",
            f"write `backend: {recorded.backend}`, or build in another folder: snakemake --directory FOLDER",
        )
    if backend not in BUILDERS:
        raise WorkFolderError(
            f"the backend {backend} cannot be built by this version", f"use one of: auto, {', '.join(BUILDERS)}"
        )
    found = probe(backend)
    return recorded if recorded and found.version == NOT_INSTALLED else found


def locked_dims(settings: VariantsFile, folder: Path) -> ModelDims | None:
    """The model's dimensions as the folder's ``checkpoint.lock`` has them; nothing where there is none yet.

    Raises :class:`WorkFolderError` when the folder was built from another checkpoint or revision.
    """
    path = folder / "checkpoint.lock"
    if not path.is_file():
        return None
    lock = CheckpointLock.read(path)
    model = settings.model
    if lock.checkpoint != model.checkpoint or lock.revision not in (None, model.revision):
        raise WorkFolderError(
            f"this work folder was built from {lock.checkpoint} ({lock.revision or 'local'}), "
            f"and variants.yaml now says {model.checkpoint} ({model.revision})",
            "one folder holds one checkpoint: build the other with snakemake --directory FOLDER",
        )
    return lock.model_dims


def device_name(toolchain: Toolchain) -> str:
    """What the engines of this toolchain run on here: its GPU, or this machine's, else the processor."""
    if toolchain.backend == "tensorrt-rtx":
        gpu = find_gpu()
        return gpu.name if gpu else NO_GPU
    return toolchain.gpu or cpu_name()


def why_not_run(backend: Backend) -> str | None:
    """Why engines of ``backend`` can be built but not run here; nothing where they can."""
    if backend != "tensorrt-rtx":
        return None
    able = "this machine can build TensorRT-RTX engines but not run them"
    if find_gpu() is None:
        return f"{able}: no NVIDIA driver was found"
    return "this version of sam3-runtime builds TensorRT-RTX engines and does not run them yet"


def cpu_name() -> str:
    """The processor's name as Linux gives it, else as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
