"""Weights are those of the checkpoint in either layout, or drawn by their names alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from sam3_runtime.core.errors import CheckpointError
from sam3_runtime.families.sam3.export import checkpoint
from sam3_runtime.families.sam3.export.weights import load_model, load_module
from sam3_runtime.records.records import CheckpointLock


@pytest.fixture
def copy(demo_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_checkpoint, tmp_path / "copy"))


def test_video_layout_has_the_same_weights(demo_lock: CheckpointLock, video_checkpoint: Path) -> None:
    ours = load_model(demo_lock, 182).state_dict()
    theirs = load_model(checkpoint.lock(str(video_checkpoint)), 182).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_random_parts_have_the_weights_of_the_whole() -> None:
    """By name alone: whatever else is loaded beside."""
    lock = checkpoint.lock("random")
    assert lock.dims["image_size"] == 1008
    assert lock == checkpoint.lock("random")
    linear = load_module(lock, "text_projection", lambda: nn.Linear(8, 4))
    holder = nn.ModuleDict({"text_projection": nn.Linear(8, 4), "other": nn.Linear(8, 4)})
    whole = load_module(lock, "", lambda: holder)
    assert torch.equal(whole["text_projection"].weight, linear.weight)
    assert not torch.equal(whole["other"].weight, linear.weight)
    assert not linear.training


def test_missing_weights_are_named(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["text_projection.bias"]
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks weights: .*text_projection\.bias"):
        load_model(checkpoint.lock(str(copy)), 182)
