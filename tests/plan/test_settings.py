"""The schema of variants.yaml, for editors and as it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sam3_runtime.plan.settings import json_schema
from sam3_runtime.plan.variants import parse, read

PROJECT = Path(__file__).resolve().parents[2]


def test_gpus_are_named_in_any_way_and_counted_once() -> None:
    text = (
        "backend: tensorrt-rtx\nbuild: {rtx: {gpus: [blackwell, ada, 8.9, sm_120, 86]}}\nvariants: [{quantize: int8}]"
    )
    assert parse(text).settings.build.gpus == ["8.6", "8.9", "12.0"]
    assert parse("variants: [{}]").settings.build.gpus == ["8.9", "12.0"]


def test_the_schema_for_editors_is_fresh() -> None:
    assert (PROJECT / "variants.schema.json").read_text() == json_schema(), "run make schema"


def test_the_schema_accepts_the_files_that_ship() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(json_schema())
    shipped = [PROJECT / "variants.yaml", *PROJECT.glob("demo/variants*.yaml")]
    measured = sorted(PROJECT.glob("docs/results/*variants.yaml"))
    assert len(measured) == 5
    for file in [*shipped, *measured]:
        jsonschema.validate(yaml.safe_load(file.read_text()), schema)
    for file in measured:
        assert read(file)
