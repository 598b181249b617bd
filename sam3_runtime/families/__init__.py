"""The families of models that engines are built of, by the name that ``model.family`` has, and where their modules are.

A family is a folder here. ``spec.py`` and ``settings.py`` are pure, and read here; ``export/`` has one module a job
(:func:`exporter`), and ``runtime.py`` runs the engines (:func:`runtime`): each is imported where it is used.
ARCHITECTURE ("Adding a family") says what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from sam3_runtime.families.base import FamilySpec, Part
from sam3_runtime.families.classifier.spec import CLASSIFIER
from sam3_runtime.families.sam3.spec import SAM3

FAMILIES: dict[str, FamilySpec] = {spec.name: spec for spec in (SAM3, CLASSIFIER)}
"""By name; a checkpoint that tells nothing is of the first."""
DEFAULT = next(iter(FAMILIES))
"""What records and graphs are of that name no family: there was one."""


def family_of(name: str | None) -> FamilySpec:
    """The family of that name; :data:`DEFAULT` for None."""
    return FAMILIES[name or DEFAULT]


def claimed_by(checkpoint: str, config: Mapping[str, Any]) -> FamilySpec | None:
    """The family that a checkpoint of that name, with this ``config.json`` where it is here, is of; None where none
    claims it."""
    owner = checkpoint.partition("/")[0] if "/" in checkpoint and not config else None
    return next((spec for spec in FAMILIES.values() if spec.claims(config) or (owner and spec.hub == owner)), None)


def main_part(names: Iterable[str]) -> Part | None:
    """Of engines with these parts the one that may be in 8 bits, and that is compared with other ways to run it."""
    known = set(names)
    spec = next((spec for spec in FAMILIES.values() if known and known <= set(spec.parts)), None)
    return spec.eight_bit_part if spec else None


def module_of(family: str | None, name: str) -> Any:
    """A module of a family, such as ``runtime`` or ``export.graph``."""
    return import_module(f"sam3_runtime.{family_of(family).code.replace('/', '.')}.{name}")


def exporter(family: str | None, job: str) -> Any:
    """The module of a family that does a job: ``checkpoint``, ``graph``, ``reference``, ``accuracy``, ``baselines``."""
    return module_of(family, f"export.{job}")


def runtime(family: str | None) -> Any:
    """The module that opens, judges and measures the engines of a family."""
    return module_of(family, "runtime")
