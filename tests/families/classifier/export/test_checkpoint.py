"""Kinds of checkpoints, their digests, and the messages about those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.families.classifier.export.checkpoint import labels_of, lock, preprocessing_of, write_asset
from sam3_runtime.families.classifier.labels import read_labels
from tests.families.classifier.conftest import CONFIG, NAMES, TRAINED, write_checkpoint


def test_a_folder_is_locked_with_every_byte(folder: Path, tmp_path: Path) -> None:
    found = lock(str(folder))
    assert (found.family, found.commit, found.dims) == ("classifier", None, {"classes": 5, "image_size": 160})
    assert found.preprocessing is not None
    assert (found.preprocessing.fit, found.preprocessing.crop) == ("crop", 0.95)
    assert found.preprocessing.resample == "bicubic-antialias"
    assert lock(str(write_checkpoint(tmp_path / "same"))).digest == found.digest
    assert lock(str(write_checkpoint(tmp_path / "weights", seed=1))).digest != found.digest
    assert lock(str(write_checkpoint(tmp_path / "config", CONFIG | {"tag": "x"}))).digest != found.digest


def test_a_timm_model_has_seeded_weights() -> None:
    found = lock("resnet50")
    assert found.dims == {"classes": 1000, "image_size": 224}
    assert (found.checkpoint, found.revision, found.commit) == ("resnet50", None, None)
    assert found.digest == lock("resnet50", "main").digest
    assert lock("resnet18").digest != found.digest
    assert lock("resnet50.tv_in1k").preprocessing != found.preprocessing


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt50", "'resnt50' is neither a local folder nor a model of timm.*\n.*resnet50"),
        ("resnet50.nope", r"has no resnet50\.nope\n.*resnet50\.\w+"),
    ],
)
def test_a_name_that_is_unknown_gets_the_nearest(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        lock(name)


def changed(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | values))
    return folder


def test_a_folder_that_is_no_checkpoint_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config.json\n.*timm's config.json"):
        lock(str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=r"has neither model.safetensors nor .*\n.*timm's config.json"):
        lock(str(changed(tmp_path / "bare")))
    (changed(tmp_path / "pickle") / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin but no model.safetensors"):
        lock(str(tmp_path / "pickle"))
    (changed(tmp_path / "damaged") / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="is damaged"):
        lock(str(tmp_path / "damaged"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "sam3"}')
    with pytest.raises(CheckpointError, match="not in timm's form"):
        lock(str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="is a file"):
        lock(str(folder / "config.json"))


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode 'border'"),
        ({"interpolation": "nearest"}, "interpolation 'nearest'"),
        ({"num_classes": 0}, "has no classes"),
        ({"input_size": [1, 160, 160]}, "1 channels"),
    ],
)
def test_what_cannot_be_done_is_refused(folder: Path, tmp_path: Path, trained: dict[str, Any], message: str) -> None:
    config = CONFIG | {"pretrained_cfg": TRAINED | trained, "num_classes": trained.get("num_classes", 5)}
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        lock(str(tmp_path))


def test_squash_stretches_through_pillow() -> None:
    found = preprocessing_of(CONFIG | {"pretrained_cfg": TRAINED | {"crop_mode": "squash", "crop_pct": 1.0}})
    assert (found.fit, found.crop) == ("stretch", 1.0)


def test_labels_are_the_configurations_or_imagenets(folder: Path, tmp_path: Path) -> None:
    write_asset(lock(str(folder)), "labels.json", tmp_path / "labels.json")
    assert (read_labels(tmp_path / "labels.json", 5).names, read_labels(tmp_path / "labels.json", 5).synsets) == (
        NAMES, None,
    )  # fmt: skip
    plain = {"pretrained_cfg": {}}
    known = labels_of(plain, 1000)
    assert known.synsets is not None
    assert (known.names[0], known.synsets[0]) == ("tench, Tinca tinca", "n01440764")
    assert len(labels_of(plain, 21841).names) == 21841
    assert labels_of(plain, 3).names == ["class 0", "class 1", "class 2"]
    described = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "one"}}
    assert labels_of({"pretrained_cfg": described}, 2).names == ["one", "n2"]
    synsets = {"label_names": ["n01440764", "n02123045"], "label_descriptions": ["tench", "tabby"]}
    assert labels_of(synsets, 2).synsets == ["n01440764", "n02123045"]
    with pytest.raises(CheckpointError, match="2 label_names, 2 descriptions and 3 classes"):
        labels_of({"label_names": ["a", "b"]}, 3)
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        write_asset(lock(str(folder)), "tokenizer.json", tmp_path / "tokenizer.json")
