"""Marks the nodes of a traced graph that stay in float32: FP32 exceptions, which the code calls islands.

An island is the inside of a module of a class that the family names; ``typed.py`` inserts the Casts at its borders.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

import onnx_ir as ir

ISLAND = "sam3.island"
"""Key in a node's ``meta``, which is never written to a file: the island that the node belongs to."""

_CLASSES = "pkg.torch.onnx.class_hierarchy"


def mark_islands(model: ir.Model, islands: Collection[str]) -> None:
    """Record for every node of a freshly traced graph which of ``islands``, names of module classes, contains it."""
    for node in model.graph:
        classes = ast.literal_eval(node.metadata_props.get(_CLASSES, "[]"))
        inside = [name.rpartition(".")[2] for name in classes[:-1]]
        node.meta[ISLAND] = next((name for name in inside if name in islands), None)
