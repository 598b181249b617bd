"""Looks at this machine: what is there, what the listed variants need, and what to do about the difference.

The first thing to ask of someone for whom it does not work. Changes nothing, times nothing, loads no engine. Every
library is imported in a process of its own, so that one which is broken, or which ends its process, is a line of the
report. What it prints may be shared: it names no path, host or user.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sam3_runtime import __version__
from sam3_runtime.core.errors import Sam3Error
from sam3_runtime.core.files import is_writable, without_folders
from sam3_runtime.core.gpus import cuda_version, find_gpus
from sam3_runtime.core.wording import counted
from sam3_runtime.engines.registry import BACKENDS, BUILT
from sam3_runtime.measure.gpu_monitor import read
from sam3_runtime.measure.memory import MIB
from sam3_runtime.plan.estimate import Estimate, estimate
from sam3_runtime.plan.planning import DEFAULT_CACHE, Plan, make_plan
from sam3_runtime.plan.toolchain import trtexec_version

State = Literal["ok", "missing", "warning"]
Need = Literal["run", "build", "no"]
_PATIENCE = 120  # seconds that an import may take
_PROBE = "import importlib, sys; m = importlib.import_module(sys.argv[1]); print(getattr(m, '__version__', 'there'))"


@dataclass(frozen=True)
class Finding:
    """One line. ``needed`` says whether the listed variants can neither be built nor run without it."""

    name: str
    state: State
    said: str
    hint: str = ""
    needed: bool = False


@dataclass(frozen=True)
class _Library:
    """``needs`` maps a backend to whether it needs the library: for ``build`` alone or to ``run`` as well."""

    name: str
    module: str
    install: str
    needs: dict[str, Need]


_EVERY: dict[str, Need] = dict.fromkeys(BUILT, "run")
_BUILT = [BACKENDS[name] for name in BUILT]
_LIBRARIES = (
    _Library("NumPy", "numpy", "pip install numpy", _EVERY),
    _Library("OpenCV", "cv2", "pip install opencv-python-headless", _EVERY),
    *(_Library(spec.title, spec.module or spec.name, spec.install or "", {spec.name: "run"}) for spec in _BUILT),
    _Library(
        "pycuda",
        "pycuda.driver",
        "pip install pycuda: engines are built without it, and do not run",
        {spec.name: "run" if spec.builds_on == "gpu" else "build" for spec in _BUILT if spec.on_gpu},
    ),
    _Library("PyTorch", "torch", "pip install 'sam3-runtime[workflow]': exporting needs it, running does not", {}),
    _Library("transformers", "transformers", "pip install 'sam3-runtime[workflow]': exporting needs it", {}),
)


def examine(folder: Path, variants: Path) -> dict[str, Any]:
    """The whole report as plain data: ``backend``, whether it is ``ready``, and the ``findings`` in order."""
    plan, read_it = _plan(folder, variants)
    backend = plan.toolchain.backend if plan else None
    findings = [
        Finding("sam3-runtime", "ok", f"{__version__}, Python {platform.python_version()}, {platform.system()}"),
        read_it,
        *_cards(backend),
        *(_library(library, backend) for library in _LIBRARIES),
        _trtexec(backend),
        Finding("nvcc", "ok", "not needed: the kernels of this project travel compiled"),
        *_cache(folder, plan),
        *_room(folder, plan),
    ]
    ready = not any(one.state == "missing" and one.needed for one in findings)
    return {"backend": backend, "ready": ready, "findings": [asdict(one) for one in findings]}


def _plan(folder: Path, variants: Path) -> tuple[Plan | None, Finding]:
    try:
        plan = make_plan(variants, folder)
    except (Sam3Error, OSError) as error:
        said = error.message if isinstance(error, Sam3Error) else str(error.strerror)
        hint = (error.hint or "") if isinstance(error, Sam3Error) else "run it where variants.yaml is: -d FOLDER"
        return None, Finding("variants.yaml", "warning", without_folders(said), hint)
    backend = plan.toolchain.backend
    asked = plan.variants.settings.backend
    means = f"{asked}, here {backend}" if asked != backend else backend
    return plan, Finding("variants.yaml", "ok", f"{counted(len(plan.names), 'variant')}, backend {means}")


def _cards(backend: str | None) -> Iterator[Finding]:
    """The driver and each GPU. Some backends build without one."""
    spec = BACKENDS[backend] if backend else None
    needed = spec is not None and spec.builds_on == "gpu"
    gpus = find_gpus()
    if not gpus:
        told = "there is an nvidia-smi, and it shows no GPU" if shutil.which("nvidia-smi") else "no nvidia-smi on PATH"
        hint = "install NVIDIA's driver; in a container, start it with --gpus all" if spec and spec.on_gpu else ""
        yield Finding("driver and GPU", "missing", told + _not_needed(needed, backend), hint, needed)
        return
    yield Finding("driver", "ok", f"{gpus[0].driver}, for CUDA up to {cuda_version() or 'unknown'}")
    for place, gpu in enumerate(gpus):
        said = f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory // MIB} MiB"
        yield Finding(f"GPU {place}", "ok", said)


def _not_needed(needed: bool, backend: str | None) -> str:
    return "" if needed or backend is None else f"; {backend} does without"


def _library(library: _Library, backend: str | None) -> Finding:
    need = library.needs.get(backend or "", "no")
    version, error = _import(library.module)
    if error is None:
        return Finding(library.name, "ok", version, needed=need == "run")
    absent = error.startswith("ModuleNotFoundError")
    said = "not installed" if absent else f"installed, and broken: {error}"
    if need == "no":
        return Finding(library.name, "missing" if absent else "warning", said + _not_needed(False, backend))
    return Finding(library.name, "missing", said, library.install, needed=need == "run")


def _import(module: str) -> tuple[str, str | None]:
    """The version of ``module``, or what importing it said last."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", _PROBE, module], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{type(error).__name__}: importing it did not end"
    if run.returncode < 0:
        return "", f"importing it ended the process with signal {-run.returncode}"
    lines = [line for line in (run.stderr if run.returncode else run.stdout).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    return ("", without_folders(last)) if run.returncode else (last, None)


def _trtexec(backend: str | None) -> Finding:
    if shutil.which("trtexec") is None:
        return Finding("trtexec", "missing", "not on PATH; the Python builder does without")
    version = trtexec_version()
    if version is None:
        return Finding("trtexec", "warning", "on PATH, and does not say its version", "is it TensorRT's own?")
    uses_it = backend is not None and BACKENDS[backend].tool is not None
    return Finding("trtexec", "ok", f"TensorRT {version}" + _not_needed(uses_it, backend))


def _cache(folder: Path, plan: Plan | None) -> Iterator[Finding]:
    """The engine cache: whether it can be written to, and whether what the folder links is there."""
    if plan is None:
        return
    cache = plan.cache_folder()
    links = [link for link in (folder / "engines/store").rglob("*.engine") if link.is_symlink()]
    gone = sum(not link.exists() for link in links)
    if gone:
        said = f"of {len(links)} engines that this folder links, {gone} {'is' if gone == 1 else 'are'} not there"
        yield Finding("engine cache", "warning", said, f"mount {cache}, or let snakemake build them again")
    elif not is_writable(folder / cache):
        hint = f"engines that it lacks are built into {DEFAULT_CACHE}"
        yield Finding("engine cache", "warning", "it cannot be written to", hint)
    else:
        yield Finding("engine cache", "ok", f"engines linked: {len(links)}")


def _room(folder: Path, plan: Plan | None) -> Iterator[Finding]:
    """Free disk and GPU memory, against what the variants will take."""
    needs = estimate(plan) if plan else None
    free = shutil.disk_usage(folder).free // MIB
    if needs is None:
        yield Finding("disk", "ok", f"{free} MiB free")
        return
    said = f"{free} MiB free; graphs, engines and references will take about {needs.disk} MiB"
    yield _enough(needs, "disk", free, needs.disk, said, "sam3-runtime prune shows what nothing uses")
    gpus, now = find_gpus(), read()
    if not needs.gpu or not gpus or now is None or now.used_mib is None:
        return
    left = gpus[0].memory // MIB - round(now.used_mib)
    said = f"{left} MiB free; running {needs.largest}, the largest, will take about {needs.gpu} MiB"
    yield _enough(needs, "GPU memory", left, needs.gpu, said, "a smaller batch or resolution takes less")


def _enough(needs: Estimate, name: str, free: int, needed: int, said: str, hint: str) -> Finding:
    if free > needed:
        return Finding(name, "ok", said)
    return Finding(name, "warning", said, f"{hint}. The estimate is rough. {needs.made_of}")
