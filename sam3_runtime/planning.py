"""From ``variants.yaml`` to what each rule depends on: plain dictionaries, each with its own slice and no more.

Snakemake compares these with those of the last run, so that an edit reruns exactly the jobs whose slice it changed.
Pure, as the Snakefile imports it while it plans; paths in the slices are relative to the work folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_runtime.config import Toolchain
from sam3_runtime.contract import PartName
from sam3_runtime.errors import VariantsError
from sam3_runtime.toolchain import BUILDER_MODULES, device_name, locked_dims, resolve, why_not_run
from sam3_runtime.variants import RANDOM_CHECKPOINT, Variant, Variants, parse, read

PACKAGE_SCHEME = "package:"
"""Prefix of a source that an installed Python package ships, such as ``package:skimage/data/coffee.png``."""

CACHE_ENVIRONMENT = "SAM3_ENGINE_CACHE"
DEFAULT_CACHE = "engines/cache"


@dataclass(frozen=True)
class Plan:
    """The checked ``variants.yaml`` of a work folder, and the toolchain that it is built with."""

    variants: Variants
    toolchain: Toolchain
    base: str  # folder of variants.yaml, relative to the work folder

    # --- slices, one a stage ------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        model = self.variants.settings.model
        return {"checkpoint": model.checkpoint, "revision": model.revision}

    def export(self, part: PartName) -> dict[str, Any]:
        return {"attention": self.variants.settings.export.attention, "precision": self.precision(part)}

    def reference(self) -> dict[str, Any]:
        section = self.variants.settings.reference
        threshold = None if section.threshold == "auto" else section.threshold
        return {"source": self.sources(section.source), "prompts": section.prompts, "threshold": threshold}

    def calibration(self) -> dict[str, Any]:
        section = self.variants.settings.calibration
        listed = [section.source] if isinstance(section.source, str) else section.source
        chosen = {"algorithm": section.algorithm, "frames": section.frames, "source": self.sources(listed)}
        return chosen | ({"percentile": section.percentile} if section.algorithm == "percentile" else {})

    def quantization(self) -> dict[str, Any]:
        return {"exclude": self.variants.settings.calibration.exclude}

    def build(self, part: PartName) -> dict[str, Any]:
        return {
            "toolchain": self.toolchain.key(),
            "settings": self._build_settings(),
            "precision": self.precision(part),
        }

    def _build_settings(self) -> dict[str, Any]:
        """The settings that engines of this backend depend on."""
        section = self.variants.settings.build
        if self.toolchain.backend == "tensorrt-rtx":
            return {"gpus": section.gpus}
        return {"optimization": section.optimization}

    def configure(self, name: str) -> dict[str, Any]:
        chosen = self.variants.get(name)
        return {"variant": name, **vars(chosen), "backend": self.toolchain.backend} | self.checkpoint()

    def verify(self, name: str) -> dict[str, Any]:
        gate = self.variants.settings.gate
        quantize = self.variants.get(name).quantize
        limits = gate.float if quantize == "none" else getattr(gate, quantize)
        return {"gate": limits.model_dump(), "device": self.device()}

    def bench(self) -> dict[str, Any]:
        section = self.variants.settings.bench
        return section.model_dump() | {"source": self.sources(section.source), "device": self.device()}

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
    def is_full_size(self) -> bool:
        """Whether one export needs most of a machine's memory, so that only one may run at a time."""
        return self.variants.dims.channels >= 256

    def precision(self, part: PartName) -> str:
        """``fp32`` or ``fp16``: what the file asks for that part, or what its backend is best at."""
        asked = self.variants.settings.precision
        if isinstance(asked, dict):
            asked = asked.get(part, asked.get("default", "auto"))
        if asked != "auto":
            return asked
        return "fp32" if self.toolchain.backend == "onnxruntime" else "fp16"

    def device(self) -> str:
        """What engines run on here: another device makes verdicts and benchmarks due again."""
        return device_name(self.toolchain)

    def why_not_run(self) -> str | None:
        """Why what is built here cannot be run here; nothing where it can."""
        return why_not_run(self.toolchain.backend)

    def builder_modules(self) -> list[str]:
        """The modules that decide what an engine of this backend is."""
        return [f"builders/{module}.py" for module in BUILDER_MODULES[self.toolchain.backend]]

    def path(self, text: str) -> str:
        """A path of ``variants.yaml``, which is relative to that file, as the work folder sees it."""
        if text.startswith(PACKAGE_SCHEME):
            return text
        expanded = Path(text).expanduser()
        return str(expanded) if expanded.is_absolute() else os.path.normpath(Path(self.base) / expanded)

    def sources(self, listed: list[str]) -> list[str]:
        return [self.path(text) for text in listed]

    def cache_folder(self) -> str:
        """The engine cache: ``build.cache``, else the environment's ``SAM3_ENGINE_CACHE``, else the folder's own."""
        setting = self.variants.settings.build.cache
        return self.path(setting) if setting else os.environ.get(CACHE_ENVIRONMENT, DEFAULT_CACHE)

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
    locked = locked_dims(checked.settings, folder)
    if locked and locked != checked.dims:
        checked = parse(text, shown, dims=locked)
    return Plan(checked, resolve(checked.settings, folder), base)
