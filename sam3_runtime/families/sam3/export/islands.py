"""What stays in float32 in a float16 graph: modules by the name of their class, each with the reason that was measured.

The numbers are those of docs/parity.md, where every island is switched off in turn. Knows the names of modules, and
how a traced node says which module it came from; ``typed.py`` draws the borders. An island's module holds arithmetic
alone: no weights, no loop.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

import onnx_ir as ir

ISLANDS: dict[str, str] = {
    "BoxSides": "corners in patches reach 72 and more, where float16 has steps of 1/16 of a patch",
    "BoxSampling": "positions of samples do too, and a weight is what is left of 1 after subtracting a distance",
    "BoxRefinement": "the logit of a coordinate near 1 divides by 1 - x, which float16 leaves 1 or 2 digits of",
    "BoxCorners": "pred_boxes are float32: rounding them would add 2.4e-4, a quarter of a pixel at 1008",
}

ISLAND = "sam3.island"
"""Key in a node's ``meta``, which lives in memory alone: the island that the node belongs to."""

_CLASSES = "pkg.torch.onnx.class_hierarchy"


def mark_islands(model: ir.Model, islands: Collection[str]) -> None:
    """Note on every node of a freshly traced graph which of ``islands`` it is inside of."""
    for node in model.graph:
        classes = ast.literal_eval(node.metadata_props.get(_CLASSES, "[]"))
        inside = [name.rpartition(".")[2] for name in classes[:-1]]
        node.meta[ISLAND] = next((name for name in inside if name in islands), None)
