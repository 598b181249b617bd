"""SAM3's own sections of variants.yaml: what jobs depend on, and the defaults."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sam3_runtime.families.sam3.settings import SECTIONS, AccuracySection, BenchSection, GateSection, ReferenceSection


def test_sections_have_their_defaults() -> None:
    made = {name: section() for name, section in SECTIONS.items() if name != "accuracy"}
    assert set(made) == {"export", "optimal", "reference", "bench", "gate"}
    gate = GateSection()
    assert (gate.float.feature_cosine, gate.int8.feature_cosine, gate.fp8.ap_loss) == (0.999, 0.97, 0.015)


def test_an_automatic_threshold_is_none_for_jobs() -> None:
    assert ReferenceSection().params() == {"prompts": ["person", "cat", "cup"], "threshold": None}
    assert ReferenceSection(threshold=0.4).params()["threshold"] == 0.4
    with pytest.raises(ValidationError, match="threshold"):
        ReferenceSection.model_validate({"threshold": "automatic"})


def test_a_data_set_is_its_content_and_its_places_are_apart() -> None:
    section = AccuracySection(annotations="a.json", limit=9)
    assert (section.params(), section.paths()) == ({"limit": 9}, {"annotations": "a.json"})
    assert AccuracySection(annotations="a.json", images="img").paths() == {"annotations": "a.json", "images": "img"}


def test_a_baseline_has_as_many_prompts_and_masks() -> None:
    found = BenchSection(prompts=["cat", "dog"], masks=7, cameras=[1, 4]).baseline()
    assert (found["prompts"], found["masks"], found["batches"]) == (2, 7, [1, 4])
