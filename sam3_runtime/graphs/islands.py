"""Marks the nodes of a traced graph that stay in float32: those inside of modules that the family names.

Knows how a traced node says which module it came from; ``typed.py`` draws the borders.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

import onnx_ir as ir

ISLAND = "sam3.island"
"""Key in a node's ``meta``, which lives in memory alone: the island that the node belongs to."""

_CLASSES = "pkg.torch.onnx.class_hierarchy"


def mark_islands(model: ir.Model, islands: Collection[str]) -> None:
    """Note on every node of a freshly traced graph which of ``islands``, classes of modules, it is inside of."""
    for node in model.graph:
        classes = ast.literal_eval(node.metadata_props.get(_CLASSES, "[]"))
        inside = [name.rpartition(".")[2] for name in classes[:-1]]
        node.meta[ISLAND] = next((name for name in inside if name in islands), None)
