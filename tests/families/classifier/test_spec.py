"""Whose checkpoints are classifiers, and what a variant of one may be."""

from __future__ import annotations

from sam3_runtime.families.classifier.spec import CLASSIFIER, ClassifierDims
from tests.families.classifier.conftest import CONFIG


def test_the_family_claims_timms_form_alone() -> None:
    assert CLASSIFIER.claims(CONFIG)
    assert not CLASSIFIER.claims({"model_type": "sam3"})
    assert ClassifierDims.from_config(CONFIG) == ClassifierDims(5, 160)
    assert CLASSIFIER.refuse(ClassifierDims(), {"batch": 1, "resolution": 16}) is not None
    assert CLASSIFIER.refuse(ClassifierDims(), {"batch": 1, "resolution": 32}) is None
