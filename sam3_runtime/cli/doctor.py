"""Reports what this machine has, what the listed variants need, and what to do about the difference.

Changes nothing, times nothing, loads no engine. Each library is imported in its own process, so that one that is
broken or ends its process is a line of the report. The report may be shared: it names no path, host or user.
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
from sam3_runtime.engines.registry import BACKENDS, BUILT, BackendSpec
from sam3_runtime.measure.gpu_monitor import read
from sam3_runtime.plan.estimate import estimate
from sam3_runtime.plan.planning import DEFAULT_CACHE, Plan, make_plan
from sam3_runtime.plan.toolchain import trtexec_version
from sam3_runtime.records.memory import MIB

_PATIENCE = 120  # seconds that an import may take
_PROBE = "import importlib, sys; m = importlib.import_module(sys.argv[1]); print(getattr(m, '__version__', 'there'))"


@dataclass(frozen=True)
class Finding:
    """One line. ``needed``: without it the listed variants can neither be built nor run."""

    name: str
    state: Literal["ok", "missing", "warning"]
    said: str
    hint: str = ""
    needed: bool = False


def examine(folder: Path, variants: Path) -> dict[str, Any]:
    """Return the report as plain data: ``backend``, whether it is ``ready``, and the ``findings`` in order."""
    plan, listed = _plan(folder, variants)
    spec = BACKENDS[plan.toolchain.backend] if plan else None
    findings = [
        Finding("sam3-runtime", "ok", f"{__version__}, Python {platform.python_version()}, {platform.system()}"),
        listed,
        *_gpus(spec),
        *_libraries(spec),
        _trtexec(spec),
        *(_cache(folder, plan) if plan else ()),
        *_capacity(folder, plan),
    ]
    ready = not any(one.state == "missing" and one.needed for one in findings)
    return {"backend": spec and spec.name, "ready": ready, "findings": [asdict(one) for one in findings]}


def _plan(folder: Path, variants: Path) -> tuple[Plan | None, Finding]:
    try:
        plan = make_plan(variants, folder)
    except Sam3Error as error:
        return None, Finding("variants.yaml", "warning", without_folders(error.message), error.hint or "")
    except OSError as error:
        return None, Finding("variants.yaml", "warning", str(error.strerror), "name its folder: -d FOLDER")
    backend, asked = plan.toolchain.backend, plan.variants.settings.backend
    shown = f"{asked}, here {backend}" if asked != backend else backend
    return plan, Finding("variants.yaml", "ok", f"{counted(len(plan.names), 'variant')}, backend {shown}")


def _unneeded(needed: bool, spec: BackendSpec | None) -> str:
    return "" if needed or spec is None else f"; {spec.name} does not need it"


def _gpus(spec: BackendSpec | None) -> Iterator[Finding]:
    """Return the driver and each GPU. Some backends build without one."""
    gpus, cuda = find_gpus(), cuda_version()
    if not gpus:
        needed = spec is not None and spec.builds_on == "gpu"
        found = "the NVIDIA driver shows no GPU" if cuda else "there is no NVIDIA driver"
        hint = "install NVIDIA's driver; in a container, start it with --gpus all" if spec and spec.on_gpu else ""
        yield Finding("driver and GPU", "missing", found + _unneeded(needed, spec), hint, needed)
        return
    yield Finding("driver", "ok", f"{gpus[0].driver}, for CUDA up to {cuda or 'unknown'}")
    for index, gpu in enumerate(gpus):
        facts = f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory // MIB} MiB"
        yield Finding(f"GPU {index}", "ok", facts)


def _libraries(spec: BackendSpec | None) -> Iterator[Finding]:
    """Every library that some backend or the export uses; ``used``: the variants' backend uses it."""
    on_gpu = spec is not None and spec.on_gpu
    rows = [
        ("NumPy", "numpy", "pip install numpy", spec is not None),
        ("OpenCV", "cv2", "pip install opencv-python-headless", spec is not None),
        *((one.title, one.module, one.install, one is spec) for one in map(BACKENDS.__getitem__, BUILT)),
        ("pycuda", "pycuda.driver", "pip install pycuda: engines are built without it, and do not run", on_gpu),
        ("PyTorch", "torch", "", False),
        ("transformers", "transformers", "", False),
    ]
    for name, module, hint, used in rows:
        needed = used and not (name == "pycuda" and spec is not None and spec.builds_on == "cpu")
        version, error = _import(module or "")
        if error is None:
            yield Finding(name, "ok", version, needed=needed)
            continue
        is_absent = error.startswith("ModuleNotFoundError")
        found = ("not installed" if is_absent else f"installed, and broken: {error}") + _unneeded(used, spec)
        yield Finding(name, "missing" if is_absent or used else "warning", found, hint or "" if used else "", needed)


def _import(module: str) -> tuple[str, str | None]:
    """Return the version of ``module``, and the last line of the error where it cannot be imported."""
    command = [sys.executable, "-c", _PROBE, module]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{type(error).__name__}: importing it did not end"
    if run.returncode < 0:
        return "", f"importing it ended the process with signal {-run.returncode}"
    lines = (run.stderr if run.returncode else run.stdout).strip().splitlines() or ["no message"]
    last = lines[-1].strip()
    return ("", without_folders(last)) if run.returncode else (last, None)


def _trtexec(spec: BackendSpec | None) -> Finding:
    if shutil.which("trtexec") is None:
        return Finding("trtexec", "missing", "not on PATH; the Python builder does not need it")
    version = trtexec_version()
    if version is None:
        return Finding("trtexec", "warning", "on PATH, and does not print its version", "is it TensorRT's own?")
    return Finding("trtexec", "ok", f"TensorRT {version}" + _unneeded(spec is not None and spec.tool is not None, spec))


def _cache(folder: Path, plan: Plan) -> Iterator[Finding]:
    """Check that the engine cache can be written to, and that the engines that the folder links are there."""
    cache = plan.cache_folder()
    links = [link for link in (folder / "engines/store").rglob("*.engine") if link.is_symlink()]
    gone = sum(not link.exists() for link in links)
    if gone:
        found = f"of {len(links)} engines that this folder links, {gone} {'is' if gone == 1 else 'are'} not there"
        yield Finding("engine cache", "warning", found, f"mount {cache}, or let snakemake build them again")
    elif not is_writable(folder / cache):
        hint = f"engines that it lacks are built into {DEFAULT_CACHE}"
        yield Finding("engine cache", "warning", "it cannot be written to", hint)
    else:
        yield Finding("engine cache", "ok", f"engines linked: {len(links)}")


def _capacity(folder: Path, plan: Plan | None) -> Iterator[Finding]:
    """Free disk and GPU memory, and the estimate of what the variants will take."""
    needs = estimate(plan) if plan else None
    free = shutil.disk_usage(folder).free // MIB
    if needs is None:
        yield Finding("disk", "ok", f"{free} MiB free")
        return
    rough = f". The estimate is rough. {needs.made_of}"
    found = f"{free} MiB free; graphs, engines and references will take about {needs.disk} MiB"
    hint = "sam3-runtime prune shows what nothing uses" + rough
    yield Finding("disk", "ok", found) if free > needs.disk else Finding("disk", "warning", found, hint)
    gpus, now = find_gpus(), read()
    if not needs.gpu or not gpus or now is None or now.used_mib is None:
        return
    free = gpus[0].memory // MIB - round(now.used_mib)
    found = f"{free} MiB free; running {needs.largest}, the largest, will take about {needs.gpu} MiB"
    hint = "a smaller batch or resolution takes less" + rough
    yield Finding("GPU memory", "ok", found) if free > needs.gpu else Finding("GPU memory", "warning", found, hint)
