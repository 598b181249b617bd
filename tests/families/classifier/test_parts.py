"""A classifier's dimensions, from timm's form of a configuration."""

from __future__ import annotations

import pytest

from sam3_runtime.families.base import resolve
from sam3_runtime.families.classifier.parts import MODEL, ClassifierDims


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (1000, 224)),
        ({"num_classes": 5, "pretrained_cfg": {"input_size": [3, 160, 160], "num_classes": 9}}, (5, 160)),
        ({"pretrained_cfg": {"input_size": [3, 96, 96], "num_classes": 9}}, (9, 96)),
        ({"pretrained_cfg": None, "num_classes": 7}, (7, 224)),
    ],
)
def test_dimensions_are_those_of_the_configuration(config: dict[str, object], expected: tuple[int, int]) -> None:
    dims = ClassifierDims.from_config(config)
    assert (dims.classes, dims.image_size) == expected
    assert ClassifierDims(**dims.to_dict()) == dims


def test_shapes_follow_from_resolution_and_classes() -> None:
    values = {"R": 96, "K": 5}
    assert resolve(MODEL.input("images").shape, values) == ("B", 3, 96, 96)
    assert resolve(MODEL.outputs[0].shape, values) == ("B", 5)
