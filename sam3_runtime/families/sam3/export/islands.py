"""The FP32 exceptions (islands) of float16 graphs: modules by the name of their class, with the measured reason.

The numbers are those of docs/parity.md, where every island is switched off in turn. The module of an island contains
only arithmetic: no weights, no loop.
"""

from __future__ import annotations

ISLANDS: dict[str, str] = {
    "BoxSides": "corners reach 72 patches and more, where float16 has steps of 1/16 of a patch",
    "BoxSampling": "positions of samples do too, and a weight is 1 minus a distance between them",
    "BoxRefinement": "the logit of a coordinate near 1 divides by 1 - x, which float16 leaves 1 or 2 digits of",
    "BoxCorners": "pred_boxes are float32: rounding them would add 2.4e-4, a quarter of a pixel at 1008",
}
