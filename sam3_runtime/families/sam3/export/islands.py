"""What stays in float32 in a float16 graph: modules by the name of their class, each with the reason that was measured.

The numbers are those of docs/parity.md, where every island is switched off in turn. An island's module holds arithmetic
alone: no weights, no loop.
"""

from __future__ import annotations

ISLANDS: dict[str, str] = {
    "BoxSides": "corners in patches reach 72 and more, where float16 has steps of 1/16 of a patch",
    "BoxSampling": "positions of samples do too, and a weight is what is left of 1 after subtracting a distance",
    "BoxRefinement": "the logit of a coordinate near 1 divides by 1 - x, which float16 leaves 1 or 2 digits of",
    "BoxCorners": "pred_boxes are float32: rounding them would add 2.4e-4, a quarter of a pixel at 1008",
}
