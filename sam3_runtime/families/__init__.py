"""List the families of models by name (``model.family``), and import their modules.

A family is a folder here. ``spec.py`` and ``settings.py`` are pure, and imported here; ``export/`` has one module per
job (:func:`exporter`), and ``runtime.py`` runs the engines (:func:`runtime`): each is imported where it is used.
ARCHITECTURE ("Adding a family") describes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from sam3_runtime.families.base import FamilySpec, Part
from sam3_runtime.families.classifier.spec import CLASSIFIER
from sam3_runtime.families.sam3.spec import SAM3

FAMILIES: dict[str, FamilySpec] = {spec.name: spec for spec in (SAM3, CLASSIFIER)}
"""By name; the first is the default."""
DEFAULT = next(iter(FAMILIES))
"""The family of records and graphs that name none, as from before there were several."""


def family_of(name: str | None) -> FamilySpec:
    """Return the family of that name; :data:`DEFAULT` for None."""
    return FAMILIES[name or DEFAULT]


def claimed_by(checkpoint: str, config: Mapping[str, Any]) -> FamilySpec | None:
    """Return the family of a checkpoint, by its name and the content of its ``config.json``; None for an unknown one.

    ``config`` is empty where the checkpoint is not a local folder.
    """
    owner = checkpoint.partition("/")[0] if "/" in checkpoint and not config else None
    return next((spec for spec in FAMILIES.values() if spec.claims(config) or (owner and spec.hub == owner)), None)


def main_part(names: Iterable[str]) -> Part | None:
    """Return the part that may be in 8 bits, of engines with these parts; None where there is none."""
    known = set(names)
    spec = next((spec for spec in FAMILIES.values() if known and known <= set(spec.parts)), None)
    return spec.eight_bit_part if spec else None


def module_of(family: str | None, name: str) -> Any:
    """Import a module of a family, such as ``runtime`` or ``export.graph``."""
    return import_module(f"sam3_runtime.{family_of(family).code.replace('/', '.')}.{name}")


def exporter(family: str | None, job: str) -> Any:
    """Import a family's module for a job: ``checkpoint``, ``graph``, ``reference``, ``accuracy`` or ``baselines``."""
    return module_of(family, f"export.{job}")


def runtime(family: str | None) -> Any:
    """Import a family's module that opens, verifies and measures its engines."""
    return module_of(family, "runtime")
