"""The model families that engines are built of, by the name that ``model.family`` has. Pure."""

from __future__ import annotations

from sam3_runtime.families.base import FamilySpec
from sam3_runtime.families.sam3.spec import SAM3

FAMILIES: dict[str, FamilySpec] = {spec.name: spec for spec in (SAM3,)}
