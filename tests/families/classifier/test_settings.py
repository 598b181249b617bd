"""A classifier's own sections of variants.yaml."""

from __future__ import annotations

from sam3_runtime.families.classifier.settings import SECTIONS, GateSection


def test_sections_have_their_defaults() -> None:
    assert {name for name, section in SECTIONS.items() if name != "accuracy" and section() is not None} == {
        "export", "optimal", "reference", "bench", "gate",
    }  # fmt: skip
    gate = GateSection()
    assert (gate.float.top1, gate.int8.top1, gate.fp8.logit_cosine) == (0.95, 0.75, 0.98)
