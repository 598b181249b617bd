"""Derive from ``variants.yaml`` what each rule depends on: one dictionary of params per stage, and no more.

Snakemake compares the params with those of the last run, so that an edit reruns exactly the jobs whose params changed.
Pure, as the Snakefile imports it while it plans; paths are relative to the work folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import VariantsError, WorkFolderError
from sam3_runtime.core.sections import limits_of
from sam3_runtime.core.source_files import PACKAGE
from sam3_runtime.engines.registry import BACKENDS, BackendSpec, Release
from sam3_runtime.families.base import FamilySpec
from sam3_runtime.plan import toolchain as toolchains
from sam3_runtime.plan.settings import sections_of
from sam3_runtime.plan.toolchain import eight_bit_products, locked_checkpoint, resolve
from sam3_runtime.plan.variants import RANDOM_CHECKPOINT, Variant, Variants, parse, read
from sam3_runtime.records.records import Toolchain

CACHE_ENVIRONMENT = "SAM3_ENGINE_CACHE"
DEFAULT_CACHE = "engines/cache"
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Plan:
    """The checked ``variants.yaml`` of a work folder, and the toolchain that it is built with.

    ``base`` is the folder of ``variants.yaml``, relative to the work folder; ``locked_name`` is the checkpoint's name
    in ``checkpoint.lock``.
    """

    variants: Variants
    toolchain: Toolchain
    base: str
    locked_name: str | None = None

    # --- params, one method per stage ---------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Return the params of locking; the name is that of the lock, as the same weights may have another by now."""
        model = self.variants.settings.model
        return {"checkpoint": self.locked_name or model.checkpoint, "revision": model.revision}

    def export(self, part: str, ending: str = "") -> dict[str, Any]:
        """Return the params of an export; ``ending`` is ``_fp32`` for the float32 graph that 8 bits start from."""
        precision = ending.removeprefix("_") or self.precision(part)
        return self.variants.settings.export.params() | {"precision": precision}

    def reference(self) -> dict[str, Any]:
        """Return the params of the reference."""
        return dict(self.variants.settings.reference.params())

    def accuracy(self) -> dict[str, Any]:
        """Return the params of the reference's accuracy; empty without a data set."""
        section = self.variants.settings.accuracy
        return section.params() if section else {}

    def calibration(self) -> dict[str, Any]:
        """Return the params of measuring scales."""
        section = self.variants.settings.calibration
        chosen = {"algorithm": self.algorithm, "frames": section.frames}
        return chosen | ({"percentile": section.percentile} if self.algorithm == "percentile" else {})

    def calibrator(self) -> dict[str, Any]:
        """Return the params of TensorRT's own calibrators, whose scales are valid for that version on any GPU."""
        toolchain = {"backend": self.toolchain.backend, "version": self.toolchain.version}
        return self.calibration() | {"batch": self.variants.settings.calibration.batch, "toolchain": toolchain}

    def build(self) -> dict[str, Any]:
        """Return the params of every build; the precision is a param of its own."""
        return {"toolchain": self.toolchain.key(), "settings": self.backend.settings(self.variants.settings.build)}

    def eight_bit(self, suffix: str) -> dict[str, Any]:
        """Return the settings of an engine with that ``suffix`` (such as ``_int8``) that depend on this CPU."""
        return {"products": eight_bit_products()} if suffix and self.backend.products_of_cpu else {}

    def configure(self, name: str) -> dict[str, Any]:
        """Return the params of a variant's ``config.json``."""
        chosen = self.variant(name)
        own = {"variant": name, **chosen.axes, "quantize": chosen.quantize, "backend": self.toolchain.backend}
        return own | self.checkpoint()

    def verify(self, name: str) -> dict[str, Any]:
        """Return the params of a verification: the limits of the gate, and the device."""
        limits = limits_of(self.variants.settings.gate, self.variant(name).quantize)
        return {"gate": limits, "device": self.device()}

    def bench(self) -> dict[str, Any]:
        """Return the params of a benchmark."""
        return dict(self.variants.settings.bench.params(), device=self.device())

    def baseline(self) -> dict[str, Any]:
        """Return the params of measuring the model in its own library, for comparison with the variants."""
        return dict(self.variants.settings.bench.baseline(), device=self.device())

    # --- what the params are made of ----------------------------------------------------------------------------------

    def variant(self, name: str) -> Variant:
        """Return the listed variant of that name; raises :class:`VariantsError`."""
        return self.variants.get(name)

    def refuse(self, target: str) -> VariantsError:
        """Return the message for a target (``NAME``, ``NAME/FILE`` or ``NAME.json``) that no variant has."""
        return self.variants.refuse(target.split("/")[0].removesuffix(".json"))

    @property
    def names(self) -> list[str]:
        """The listed variants, in the order of the file."""
        return list(self.variants.variants)

    @property
    def backend(self) -> BackendSpec:
        """The backend of the folder's engines."""
        return BACKENDS[self.toolchain.backend]

    @property
    def release(self) -> Release:
        """The version of its library, to compare; () where it is not installed."""
        return toolchains.release_of(self.toolchain.version)

    @property
    def is_full_size(self) -> bool:
        """Whether one export needs most of a machine's memory, so that only one may run at a time."""
        return self.family.full_size(self.variants.dims)

    @property
    def family(self) -> FamilySpec:
        """The family of the model."""
        return self.variants.family

    def precision(self, part: str) -> str:
        """Return ``fp32`` or ``fp16``: the file's choice for that part, or the backend's own."""
        chosen = self.variants.settings.precision
        if isinstance(chosen, dict):
            chosen = chosen.get(part, chosen.get("default", "auto"))
        return self.backend.precision if chosen == "auto" else chosen

    @property
    def calibrates(self) -> bool:
        """Whether TensorRT measures the scales of INT8 while it builds, rather than reading them from the graph."""
        return self.variants.settings.calibration.method == "calibrator"

    @property
    def algorithm(self) -> str:
        """``percentile``, ``entropy`` or ``minmax``: the file's choice, or the method's default."""
        chosen = self.variants.settings.calibration.algorithm
        return chosen if chosen != "auto" else "entropy" if self.calibrates else "percentile"

    @property
    def eight_bit_source(self) -> str:
        """The ending of the name of the float graph that 8-bit graphs start from: nothing, or ``_fp32``.

        Calibrators, and TensorRT before 10, whose parser has no float16 QuantizeLinear, need a float32 graph; the
        engine's float type is a flag there.
        """
        flagged = self.calibrates or self.backend.wants_float32_scales(self.release)
        part = self.family.eight_bit_part
        return "_fp32" if flagged and part and self.precision(part.name) == "fp16" else ""

    def graph_ending(self, suffix: str) -> str:
        """Return the ending of the graph that an engine with that ``suffix`` (such as ``_int8``) is built from."""
        return self.eight_bit_source if suffix and self.calibrates else suffix

    def data_ending(self, suffix: str) -> str:
        """Return the ending of the graph whose external data holds that engine's weights."""
        return self.eight_bit_source if suffix else ""

    def device(self) -> str:
        """Return the name of the device that engines run on: another one makes verdicts and benchmarks due again."""
        return self.toolchain.gpu or toolchains.device_name(self.toolchain)  # `build.gpu` may name another than GPU 0

    def why_not_run(self) -> str | None:
        """Return why this machine cannot run what it builds; None where it can, or where it only plans."""
        return None if self.toolchain.gpu else toolchains.why_not_run(self.toolchain.backend)

    def building_modules(self) -> tuple[str, ...]:
        """Return the modules that decide the content of this backend's engines."""
        return self.backend.build_code + (("quantize/calibration_cache",) if self.calibrates else ())

    def running_modules(self) -> tuple[str, ...]:
        """Return the modules that run this backend's engines, and the family's module that uses them."""
        return (*self.backend.run_code, f"{self.family.code}/runtime")

    def exporting_module(self, job: str) -> str:
        """Return the family's module for a job, such as ``reference``."""
        return f"{self.family.code}/export/{job}"

    # --- where things are ---------------------------------------------------------------------------------------------

    def locations(self) -> dict[str, Any]:
        """Return where jobs find their files, and which GPUs they may take: what their outputs do not depend on."""
        build = self.variants.settings.build
        tensorrt = build.tensorrt.model_dump(include={"workspace_mib", "tactic_sources"}, exclude_none=True)
        gpus = list(build.gpu_indices)
        return {
            "family": self.family.name,
            "checkpoint_location": checkpoint_location(self.variants.settings.model.checkpoint, self.base),
            "sources": self.sources(),
            "data_set": self.data_set() if self.has_data_set else None,
            "engine_cache": self.cache_folder(),
            "timing_cache": self._path(build.tensorrt.timing_cache) or str(Path(self.cache_folder(), TIMING_CACHE)),
            "calibrator_settings": tensorrt,
            "tensorrt_builder": build.tensorrt.builder,
            "build_gpus": gpus if self.backend.builds_on == "gpu" else [],
            "run_gpus": gpus if self.backend.on_gpu else [],
        }

    def _path(self, text: str | None) -> str:
        """Return a path of ``variants.yaml``, which is relative to that file, as seen from the work folder."""
        if not text or text.startswith(PACKAGE):
            return text or ""
        return os.path.normpath(Path(self.base) / Path(text).expanduser())

    def sources(self) -> dict[str, list[str]]:
        """Return the images and videos of each section that names some; rules depend on their content."""
        sections = {name: getattr(self.variants.settings, name) for name in ("reference", "calibration", "bench")}
        listed = {name: [one.source] if isinstance(one.source, str) else one.source for name, one in sections.items()}
        return {name: [self._path(text) for text in texts] for name, texts in listed.items()}

    @property
    def has_data_set(self) -> bool:
        """Whether `accuracy:` names a data set, on which the gate compares the accuracy."""
        return self.variants.settings.accuracy is not None

    def data_set(self) -> dict[str, str]:
        """Return the files and folders of that data set by their keys; raises :class:`VariantsError` without one."""
        section = self.variants.settings.accuracy
        if section is None:
            raise VariantsError(
                f"{self.variants.file} names no data set to measure accuracy on",
                f"add `accuracy: {{{sections_of(self.family.name)['accuracy'].KEY}: PATH}}`: docs/evaluation.md",
            )
        return {key: self._path(text) for key, text in section.paths().items()}

    def cache_folder(self) -> str:
        """Return the engine cache: ``build.cache``, else ``SAM3_ENGINE_CACHE``, else the folder's own."""
        setting = self.variants.settings.build.cache
        return self._path(setting) or os.environ.get(CACHE_ENVIRONMENT, DEFAULT_CACHE)


def checkpoint_location(checkpoint: str, base: str) -> str:
    """Return where to load a checkpoint from: a local folder as seen from the work folder, or the name itself."""
    local = Path(os.path.normpath(Path(base) / Path(checkpoint).expanduser()))
    looks_local = checkpoint.startswith((".", "~", "/")) or local.is_dir()
    return str(local) if checkpoint != RANDOM_CHECKPOINT and looks_local else checkpoint


def make_plan(file: Path, folder: Path) -> Plan:
    """Return the plan of the work folder ``folder`` with the variants of ``file``.

    Raises :class:`VariantsError` and :class:`WorkFolderError` for everything that is wrong with either.
    """
    base = os.path.relpath(file.absolute().parent, folder.absolute())
    shown = os.path.relpath(file, folder)
    text = read(file, shown)
    checked = parse(text, shown, base=base)
    location = checkpoint_location(checked.settings.model.checkpoint, base)
    lock = locked_checkpoint(checked.settings, folder, location)
    if lock and lock.spec is not checked.family:
        raise WorkFolderError(
            f"this work folder was built for a {lock.spec.title}, and {shown} is for a {checked.family.title}",
            "one folder holds one model: build the other with snakemake --directory FOLDER",
        )
    if lock and lock.model_dims != checked.dims:
        checked = parse(text, shown, dims=lock.model_dims)
    plan = Plan(checked, resolve(checked.settings, folder), base, lock.checkpoint if lock else None)
    _check_release(plan)
    return plan


def _check_release(plan: Plan) -> None:
    """Reject 8-bit settings that this version of the backend does not support."""
    file, backend = plan.variants.file, plan.backend
    if plan.calibrates and plan.release >= backend.calibrators_before:
        raise VariantsError(
            f"{file}: {backend.title} {plan.toolchain.version} does not support calibration.method: calibrator: "
            f"{backend.calibrators_before[0]} has no calibrators",
            f"write `calibration: {{method: qdq}}`, which every {backend.title} runs",
        )
    fp8 = next((name for name, variant in plan.variants.variants.items() if variant.quantize == "fp8"), None)
    if fp8 and not backend.builds_fp8(plan.release):
        raise VariantsError(
            f"{file}: {fp8} asks for fp8, which this project builds with {backend.title} {backend.fp8_from[0]} and "
            f"newer; this folder's is {plan.toolchain.version}",
            "use `quantize: int8`",
        )
