"""Probe what engines can be built with here, and hold a work folder to one backend and one checkpoint.

``toolchain.json`` and ``checkpoint.lock`` in the work folder record both. Where nothing can be probed (a laptop that
plans, the environment that exports), the record counts. Pure: the Snakefile imports it while it plans.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from sam3_runtime.core.errors import WorkFolderError
from sam3_runtime.core.gpus import cuda_version, find_gpu, find_gpus, select_gpus
from sam3_runtime.engines.registry import BACKENDS, BackendSpec, Release
from sam3_runtime.plan.contents import Contents
from sam3_runtime.plan.settings import VariantsFile
from sam3_runtime.records.records import CheckpointLock, Toolchain

NOT_INSTALLED = "not installed"
NO_GPU = "no NVIDIA GPU"


def probe(backend: str, gpus: Sequence[int] = (0,)) -> Toolchain:
    """Return what is installed here for ``backend``; the version is ``NOT_INSTALLED`` where nothing is.

    A backend that builds on a GPU builds for the GPUs ``gpus`` of this machine; raises :class:`WorkFolderError` where
    these are of different models. The toolchain of a backend that builds on the CPU names no GPU.
    """
    spec = BACKENDS[backend]
    return Toolchain(backend=backend, version=_version(spec), **_gpu_facts(gpus) if spec.builds_on == "gpu" else {})


def _version(spec: BackendSpec) -> str:
    for distribution in spec.distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return (trtexec_version() if spec.tool else None) or NOT_INSTALLED


@lru_cache(maxsize=1)
def trtexec_version() -> str | None:
    """Return the TensorRT version of the ``trtexec`` on PATH; None where there is none.

    Its output begins with ``[TensorRT v8601]`` (8.6.1) or, from 10 on, ``[TensorRT v101300]`` (10.13.0).
    """
    try:
        run = subprocess.run(["trtexec", "--help"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\[TensorRT v(\d+)\]", run.stdout)
    if found is None:
        return None
    number, step = int(found[1]), 1000 if len(found[1]) < 5 else 10000
    return f"{number // step}.{number % step // 100}.{number % 100}"


def release_of(version: str) -> Release:
    """Return a version to compare, such as (8, 6, 1) for ``8.6.1.post1``; () for other text (:data:`NOT_INSTALLED`)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def _gpu_facts(indices: Sequence[int]) -> dict[str, str | None]:
    """Return the fields of a :class:`Toolchain` about the GPUs of those numbers; none where there is no GPU."""
    gpus = find_gpus()
    if not gpus:
        return {}
    chosen = select_gpus(gpus, indices)
    models = sorted({f"{gpu.name} ({gpu.compute_capability})" for gpu in chosen})
    if len(models) > 1:
        raise WorkFolderError(
            f"build.gpu names GPUs of different models: {', '.join(models)}",
            "an engine runs on the model that built it: name those of one model, the others in another work folder",
        )
    first = chosen[0]
    facts = {"gpu": first.name, "compute_capability": first.compute_capability, "driver": first.driver}
    return facts | {"cuda": cuda_version()}


def resolve(settings: VariantsFile, folder: Path) -> Toolchain:
    """Return the toolchain that ``folder`` is built with: probed, or as recorded where nothing can be probed.

    Raises :class:`WorkFolderError` when the folder was built with another backend.
    """
    gpus = settings.build.gpu_indices
    best = _best(gpus) if settings.backend == "auto" else None
    backend = best.backend if best else settings.backend
    record = folder / "toolchain.json"
    recorded = Toolchain.read(record) if record.is_file() else None
    if recorded and recorded.backend != backend:
        raise WorkFolderError(
            f"this work folder was built with the backend {recorded.backend} ({record}), "
            f"and `backend: {settings.backend}` now means {backend}",
            f"write `backend: {recorded.backend}`, or build in another folder: snakemake --directory FOLDER",
        )
    found = best or probe(backend, gpus)
    return recorded if recorded and not can_build(found) else found


def _best(gpus: Sequence[int]) -> Toolchain:
    """Return the toolchain of ``backend: auto`` on this machine."""
    able = [spec for spec in BACKENDS.values() if spec.auto and (spec.builds_on == "cpu" or find_gpu() is not None)]
    found = [probe(spec.name, gpus) for spec in able]
    return next((one for one in found if can_build(one)), found[-1])


def can_build(toolchain: Toolchain) -> bool:
    """Return whether a probed toolchain can build engines here; some backends need a GPU for that."""
    needs_gpu = BACKENDS[toolchain.backend].builds_on == "gpu"
    return toolchain.version != NOT_INSTALLED and (toolchain.gpu is not None or not needs_gpu)


def locked_checkpoint(settings: VariantsFile, folder: Path, location: str) -> CheckpointLock | None:
    """Return the folder's ``checkpoint.lock``; None where there is none yet.

    ``location`` is the path of ``model.checkpoint``, relative to the folder. Raises :class:`WorkFolderError` when the
    folder was built from another checkpoint or revision; the same weights under another name or path are accepted.
    """
    path = folder / "checkpoint.lock"
    if not path.is_file():
        return None
    lock = CheckpointLock.read(path)
    model = settings.model
    same_name = lock.checkpoint == model.checkpoint and lock.revision in (None, model.revision)
    if not same_name and Contents(folder).of_checkpoint(folder / location) != lock.digest:
        raise WorkFolderError(
            f"this work folder was built from {lock.checkpoint} ({lock.revision or 'local'}), "
            f"and variants.yaml now names {model.checkpoint} ({model.revision})",
            "one folder holds one checkpoint: build the other with snakemake --directory FOLDER",
        )
    return lock


def device_name(toolchain: Toolchain) -> str:
    """Return the name of the device that engines of this toolchain run on here by default: GPU 0, or the CPU.

    Where there is no GPU, the one that they were built for.
    """
    if not BACKENDS[toolchain.backend].on_gpu:
        return cpu_name()
    gpu = find_gpu()
    return gpu.name if gpu else toolchain.gpu or NO_GPU


def why_not_run(backend: str) -> str | None:
    """Return why engines of ``backend`` cannot run on this machine; None where they can."""
    spec = BACKENDS[backend]
    if not spec.on_gpu or find_gpu() is not None:
        return None
    built = spec.builds_on == "cpu"
    able = f"can build {spec.title} engines but not run them" if built else f"cannot run {spec.title} engines"
    return f"this machine {able}: no NVIDIA driver was found"


def cpu_name() -> str:
    """Return the CPU's name, from Linux or else from Python."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def eight_bit_products() -> Literal["u8s8", "u8u8"]:
    """Return the 8-bit types, of activation and weight, that ONNX Runtime multiplies in on this machine's CPU.

    x86 CPUs without VNNI add pairs of unsigned times signed products in 16 bits, which saturate; ONNX Runtime's
    unsigned times unsigned is exact on them, and slower than the other on CPUs with VNNI.
    """
    exact = platform.machine() not in ("x86_64", "AMD64") or "vnni" in (_cpu_info("flags") or "")
    return "u8s8" if exact else "u8u8"


@cache
def _cpu_info(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)
