"""Names, schema and matrices follow from a family's axes, here those of one that is not SAM3."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from sam3_runtime.core.errors import VariantsError
from sam3_runtime.families import FAMILIES
from sam3_runtime.families.base import BATCH, Axis
from sam3_runtime.families.classifier.spec import CLASSIFIER
from sam3_runtime.plan.settings import variants_file
from sam3_runtime.plan.variants import Variant, parse

CLASSES = replace(
    CLASSIFIER,
    axes=(Axis(BATCH, "b", 16), Axis("resolution", "r")),
    own_values=lambda dims: {"resolution": dims.image_size},
)


def test_names_have_the_axes_in_order() -> None:
    variant = Variant((8, 224), "int8", CLASSES)
    assert variant.name == "b8_r224_int8"
    assert Variant.from_name("b8_r224_int8", CLASSES) == variant
    assert variant.axes == {"batch": 8, "resolution": 224}
    assert (variant.batch, variant["resolution"]) == (8, 224)
    assert variant.changed(batch=2).name == "b2_r224_int8"
    assert variant.yaml_line == "  - {batch: 8, resolution: 224, quantize: int8}"
    with pytest.raises(VariantsError, match=r"names look like b16_r672 or b16_r672_int8: batch, resolution"):
        Variant.from_name("b8_q50_r224", CLASSES)


def test_the_schema_has_the_axes_and_no_others() -> None:
    schema = variants_file(CLASSES)
    found = schema.model_validate({"variants": [{"batch": [1, 8], "resolution": 224}]})
    assert found.defaults.model_dump() == {"batch": 16, "resolution": None, "quantize": "none"}
    assert found.variants[0].model_dump()["batch"] == [1, 8]
    with pytest.raises(ValidationError, match="queries"):
        schema.model_validate({"variants": [{"queries": 50}]})
    with pytest.raises(ValidationError):
        schema.model_validate({"variants": []})


def test_letters_and_keys_of_a_family_are_its_own() -> None:
    assert {"sam3", "classifier"} <= set(FAMILIES)
    for spec in FAMILIES.values():
        assert spec.axes[0].key == BATCH
        assert len({axis.letter for axis in spec.axes}) == len({axis.key for axis in spec.axes}) == len(spec.axes)
        assert "quantize" not in spec.keys


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("{checkpoint: timm/resnet50.a1_in1k}", "classifier"),
        ("{checkpoint: facebook/sam3}", "sam3"),
        ("{checkpoint: random}", "sam3"),
        ("{family: classifier, checkpoint: resnet50}", "classifier"),
        ("{checkpoint: here}", "classifier"),
    ],
)
def test_a_family_is_named_or_told_by_the_checkpoint(tmp_path: Path, model: str, family: str) -> None:
    (tmp_path / "here").mkdir()
    config = {"architecture": "resnet50", "num_classes": 10, "pretrained_cfg": {"input_size": [3, 160, 160]}}
    (tmp_path / "here/config.json").write_text(json.dumps(config))
    found = parse(f"model: {model}\nvariants: [{{resolution: 224}}]\n", base=str(tmp_path))
    assert found.family.name == family
    assert list(found.variants) == (["b8_r224"] if family == "classifier" else ["b8_q50_r224"])
