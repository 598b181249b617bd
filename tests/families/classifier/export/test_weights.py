"""Weights are the checkpoint's, or seeded ones that are fit for a gate; what is wrong with them is one message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.families.classifier.export import checkpoint
from sam3_runtime.families.classifier.export.reference import logits_of
from sam3_runtime.families.classifier.export.weights import load_model
from tests.families.classifier.conftest import CONFIG, write_checkpoint

Photos = dict[str, np.ndarray]


def cosines(logits: np.ndarray) -> np.ndarray:
    """Of every pair of rows."""
    unit = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    return np.asarray((unit @ unit.T)[np.triu_indices(len(unit), 1)])


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv3_small_100", "vit_tiny_patch16_224", "convnext_atto"])
def test_images_have_different_logits_and_a_little_noise_does_not(name: str, photos: Photos) -> None:
    lock = checkpoint.lock(name)
    images = list(photos.values())
    logits = logits_of(lock, 224, images)
    assert 0.01 < logits.std() < 10
    found = cosines(logits)
    assert found.mean() < 0.85
    assert found.max() < 0.99
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = load_model(lock, 224)
    near = [model(pixels), model(pixels + 1e-3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2)))]
    assert torch.nn.functional.cosine_similarity(*near).min() > 0.999


_SUM = """
import sys
from sam3_runtime.families.classifier.export import checkpoint, weights
import hashlib, torch
torch.manual_seed(int(sys.argv[1]))
state = weights.load_model(checkpoint.lock("test_resnet"), 160).state_dict()
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest())
"""


def test_the_same_name_gives_the_same_weights() -> None:
    """Whatever was drawn before, and in another process."""
    runs = [subprocess.run([sys.executable, "-c", _SUM, seed], capture_output=True, check=True) for seed in "12"]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) > 60


def test_weights_that_are_missing_wrong_or_changed_are_one_error(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    write_checkpoint(tmp_path)
    save_file({name: value for name, value in state.items() if name != "fc.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks weights: fc.bias"):
        load_model(checkpoint.lock(str(tmp_path)), 96)
    save_file(state | {"fc.bias": torch.zeros(6)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"fc.bias has shape \(6,\), config.json expects \(5,\)"):
        load_model(checkpoint.lock(str(tmp_path)), 96)
    before = checkpoint.lock(str(write_checkpoint(tmp_path)))
    write_checkpoint(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match="weights changed"):
        load_model(before, 96)


def test_a_timm_that_has_another_configuration_is_noticed() -> None:
    lock = checkpoint.lock("test_resnet").model_copy(update={"digest": "0" * 64})
    with pytest.raises(CheckpointError, match="another test_resnet than the lock"):
        load_model(lock, 160)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "resnet_of_tomorrow"}, "cannot construct resnet_of_tomorrow"),
        ({"model_args": {"no": 1}}, "no"),
    ],
)
def test_a_model_that_cannot_be_constructed_is_said(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | values))
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint.lock(str(tmp_path)), 96)
