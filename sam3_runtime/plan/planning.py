"""From ``variants.yaml`` to what each rule depends on: plain dictionaries, each with its own slice and no more.

Snakemake compares these with those of the last run, so that an edit reruns exactly the jobs whose slice it changed.
Pure, as the Snakefile imports it while it plans; paths in the slices are relative to the work folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.core.errors import VariantsError, WorkFolderError
from sam3_runtime.engines.registry import BACKENDS, BackendSpec, Release
from sam3_runtime.families.base import FamilySpec
from sam3_runtime.media.source_files import PACKAGE
from sam3_runtime.plan.settings import sections_of
from sam3_runtime.plan.toolchain import (
    device_name,
    eight_bit_products,
    locked_checkpoint,
    release_of,
    resolve,
    why_not_run,
)
from sam3_runtime.plan.variants import RANDOM_CHECKPOINT, Variant, Variants, parse, read
from sam3_runtime.records.records import Toolchain

CACHE_ENVIRONMENT = "SAM3_ENGINE_CACHE"
DEFAULT_CACHE = "engines/cache"
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Plan:
    """The checked ``variants.yaml`` of a work folder, and the toolchain that it is built with."""

    variants: Variants
    toolchain: Toolchain
    base: str  # folder of variants.yaml, relative to the work folder
    locked_name: str | None = None  # of the checkpoint, as the work folder's checkpoint.lock has it

    # --- slices, one a stage ------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        model = self.variants.settings.model
        # The name that the folder was built with: the same weights may have another by now.
        return {"checkpoint": self.locked_name or model.checkpoint, "revision": model.revision}

    def export(self, part: str, ending: str = "") -> dict[str, Any]:
        """``ending`` is that of the graph's name: ``_fp32``, where 8 bits start from a float32 graph, or nothing."""
        precision = ending.removeprefix("_") or self.precision(part)
        return self.variants.settings.export.params() | {"precision": precision}

    def reference(self) -> dict[str, Any]:
        found: dict[str, Any] = self.variants.settings.reference.params()
        return found

    def accuracy(self) -> dict[str, Any]:
        section = self.variants.settings.accuracy
        return section.params() if section else {}

    def calibration(self) -> dict[str, Any]:
        section = self.variants.settings.calibration
        chosen = {"algorithm": self.algorithm, "frames": section.frames}
        return chosen | ({"percentile": section.percentile} if self.algorithm == "percentile" else {})

    def quantization(self) -> dict[str, Any]:
        return {"exclude": self.variants.settings.calibration.exclude}

    def calibrator(self) -> dict[str, Any]:
        """What TensorRT's own calibrators depend on. The scales hold for that version of it, on any GPU."""
        toolchain = {"backend": self.toolchain.backend, "version": self.toolchain.version}
        return self.calibration() | {"batch": self.variants.settings.calibration.batch, "toolchain": toolchain}

    def calibrator_settings(self) -> dict[str, Any]:
        """Builder settings that a calibration may need, and that its scales do not depend on."""
        found = self.variants.settings.build.tensorrt.model_dump(exclude_none=True)
        return {name: value for name, value in found.items() if name in ("workspace_mib", "tactic_sources")}

    def build(self) -> dict[str, Any]:
        """What every engine depends on; its precision is that of its part."""
        return {"toolchain": self.toolchain.key(), "settings": self.backend.settings(self.variants.settings.build)}

    def eight_bit(self, suffix: str) -> dict[str, Any]:
        """Settings of an engine with that ``suffix`` (such as ``_int8``) that follow from this machine's CPU."""
        return {"products": eight_bit_products()} if suffix and self.backend.products_of_cpu else {}

    def configure(self, name: str) -> dict[str, Any]:
        chosen = self.variants.get(name)
        return {
            "variant": name,
            **chosen.axes,
            "quantize": chosen.quantize,
            "backend": self.toolchain.backend,
        } | self.checkpoint()

    def verify(self, name: str) -> dict[str, Any]:
        gate = self.variants.settings.gate
        quantize = self.variants.get(name).quantize
        limits = gate.float if quantize == "none" else getattr(gate, quantize)
        return {"gate": limits.model_dump(), "device": self.device()}

    def bench(self) -> dict[str, Any]:
        found: dict[str, Any] = self.variants.settings.bench.params()
        return found | {"device": self.device()}

    def baseline(self) -> dict[str, Any]:
        """What a user has without this project is measured with, to stand beside the variants."""
        found: dict[str, Any] = self.variants.settings.bench.baseline()
        return found | {"device": self.device()}

    # --- what the slices are made of ----------------------------------------------------------------------------------

    def variant(self, name: str) -> Variant:
        return self.variants.get(name)

    def refuse(self, target: str) -> VariantsError:
        """The message for a target (``NAME``, ``NAME/FILE`` or ``NAME.json``) that no variant has."""
        return self.variants.refuse(target.split("/")[0].removesuffix(".json"))

    @property
    def names(self) -> list[str]:
        """The listed variants, in the order of the file."""
        return list(self.variants.variants)

    @property
    def backend(self) -> BackendSpec:
        """What the engines of this folder are built for."""
        return BACKENDS[self.toolchain.backend]

    @property
    def release(self) -> Release:
        """The version of its library, to compare; () where it is not installed."""
        return release_of(self.toolchain.version)

    @property
    def is_full_size(self) -> bool:
        """Whether one export needs most of a machine's memory, so that only one may run at a time."""
        return self.family.full_size(self.variants.dims)

    @property
    def family(self) -> FamilySpec:
        """What the engines are of."""
        return self.variants.family

    def precision(self, part: str) -> str:
        """``fp32`` or ``fp16``: what the file asks for that part, or what its backend is best at."""
        asked = self.variants.settings.precision
        if isinstance(asked, dict):
            asked = asked.get(part, asked.get("default", "auto"))
        if asked != "auto":
            return asked
        return self.backend.precision

    @property
    def calibrates(self) -> bool:
        """Whether TensorRT measures the scales of INT8 while it builds, rather than finding them in the graph."""
        return self.variants.settings.calibration.method == "calibrator"

    @property
    def algorithm(self) -> str:
        """``percentile``, ``entropy`` or ``minmax``: what the file asks for, or what suits the method."""
        asked = self.variants.settings.calibration.algorithm
        if asked != "auto":
            return asked
        return "entropy" if self.calibrates else "percentile"

    @property
    def eight_bit_source(self) -> str:
        """What the name of the graph that 8-bit ones come from ends with: nothing, or ``_fp32``.

        Calibrators, and TensorRT before 10, whose parser has no float16 QuantizeLinear, want a float32 graph; the
        engine's float type is a flag there.
        """
        flagged = self.calibrates or self.backend.wants_float32_scales(self.release)
        part = self.family.eight_bit_part
        return "_fp32" if flagged and part and self.precision(part.name) == "fp16" else ""

    def graph_ending(self, suffix: str) -> str:
        """The ending of the graph that an engine with that ``suffix`` (such as ``_int8``) is built from."""
        return self.eight_bit_source if suffix and self.calibrates else suffix

    def data_ending(self, suffix: str) -> str:
        """Likewise of the graph beside which the weights lie."""
        return self.eight_bit_source if suffix else ""

    def device(self) -> str:
        """What engines run on here: another device makes verdicts and benchmarks due again."""
        return self.toolchain.gpu or device_name(self.toolchain)  # `build.gpu` may name another than GPU 0

    def why_not_run(self) -> str | None:
        """Why what is built here cannot be run here; nothing where it can, or where another machine built it that can
        and this one only plans."""
        return None if self.toolchain.gpu else why_not_run(self.toolchain.backend)

    def building_modules(self) -> tuple[str, ...]:
        """The modules that decide what an engine of this backend is."""
        scales = ("quantize/calibration_cache",) if self.calibrates else ()
        return self.backend.build_code + scales

    def running_modules(self) -> tuple[str, ...]:
        """The modules that run the engines of this backend, and what the family makes of them."""
        return (*self.backend.run_code, f"{self.family.code}/runtime")

    def exporting_module(self, job: str) -> str:
        """The family's module that does a job, such as ``reference``."""
        return f"{self.family.code}/export/{job}"

    def path(self, text: str) -> str:
        """A path of ``variants.yaml``, which is relative to that file, as the work folder sees it."""
        if text.startswith(PACKAGE):
            return text
        expanded = Path(text).expanduser()
        return str(expanded) if expanded.is_absolute() else os.path.normpath(Path(self.base) / expanded)

    def sources(self) -> dict[str, list[str]]:
        """Where images and videos are, by the section that names them. What rules depend on is their content."""
        settings = self.variants.settings
        listed = {one: getattr(settings, one).source for one in ("reference", "calibration", "bench")}
        return {
            name: [self.path(text) for text in ([source] if isinstance(source, str) else source)]
            for name, source in listed.items()
        }

    @property
    def has_data_set(self) -> bool:
        """Whether `accuracy:` names a data set, on which the gate compares AP."""
        return self.variants.settings.accuracy is not None

    def data_set(self) -> dict[str, str]:
        """The files and folders of that data set, by the key that names each; :class:`VariantsError` where none is."""
        section = self.variants.settings.accuracy
        if section is None:
            raise VariantsError(
                f"{self.variants.file} names no data set to measure accuracy on",
                f"add `accuracy: {{{sections_of(self.family.name)['accuracy'].KEY}: PATH}}`: docs/evaluation.md",
            )
        return {key: self.path(text) for key, text in section.paths().items()}

    def cache_folder(self) -> str:
        """The engine cache: ``build.cache``, else the environment's ``SAM3_ENGINE_CACHE``, else the folder's own."""
        setting = self.variants.settings.build.cache
        return self.path(setting) if setting else os.environ.get(CACHE_ENVIRONMENT, DEFAULT_CACHE)

    def timing_cache(self) -> str:
        """The file of timings that TensorRT builds share: the setting's, else one beside the engine cache."""
        setting = self.variants.settings.build.tensorrt.timing_cache
        return self.path(setting) if setting else str(Path(self.cache_folder()) / TIMING_CACHE)

    def build_gpus(self) -> list[int]:
        """The GPUs of which a build holds one; none where the backend builds on the CPU."""
        return self._gpus() if self.backend.builds_on == "gpu" else []

    def run_gpus(self) -> list[int]:
        """The GPUs of which a verification or a benchmark holds one."""
        return self._gpus() if self.backend.on_gpu else []

    def _gpus(self) -> list[int]:
        return list(self.variants.settings.build.gpu_indices)

    def checkpoint_location(self) -> str:
        """Where to load the checkpoint from: a folder where there is one of that name, else as it is written."""
        return checkpoint_location(self.variants.settings.model.checkpoint, self.base)


def checkpoint_location(checkpoint: str, base: str) -> str:
    local = Path(os.path.normpath(Path(base) / Path(checkpoint).expanduser()))
    looks_local = checkpoint.startswith((".", "~", "/")) or local.is_dir()
    return str(local) if checkpoint != RANDOM_CHECKPOINT and looks_local else checkpoint


def make_plan(file: Path, folder: Path) -> Plan:
    """Read ``file`` for the work folder ``folder``; every message about either is raised here."""
    base = os.path.relpath(file.absolute().parent, folder.absolute())
    shown = os.path.relpath(file, folder)
    text = read(file, shown)
    checked = parse(text, shown, base=base)
    location = checkpoint_location(checked.settings.model.checkpoint, base)
    lock = locked_checkpoint(checked.settings, folder, location)
    if lock and lock.spec is not checked.family:
        raise WorkFolderError(
            f"this work folder was built for a {lock.spec.title}, and {shown} is of a {checked.family.title}",
            "one folder holds one model: build the other with snakemake --directory FOLDER",
        )
    if lock and lock.model_dims != checked.dims:
        checked = parse(text, shown, dims=lock.model_dims)
    plan = Plan(checked, resolve(checked.settings, folder), base, lock.checkpoint if lock else None)
    return checked_plan(plan)


def checked_plan(plan: Plan) -> Plan:
    """``plan``; :class:`VariantsError` for 8-bit settings that this release of its backend does not support."""
    file, backend = plan.variants.file, plan.backend
    here = f"{backend.title} {plan.toolchain.version}"
    if plan.calibrates and plan.release >= backend.calibrators_before:
        raise VariantsError(
            f"{file}: calibration.method: calibrator is not for {here}: "
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
    return plan
