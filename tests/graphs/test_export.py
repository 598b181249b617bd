"""An exported file: facts and external data, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from sam3_runtime.core.errors import ExportError
from sam3_runtime.graphs import export
from sam3_runtime.graphs.export import export_graph
from sam3_runtime.records.records import CheckpointLock
from tests.graphs.test_typed import small

LOCK = CheckpointLock(
    checkpoint="here", revision=None, commit=None, digest="5" * 64, dims={"classes": 5, "image_size": 8},
    family="classifier",
)  # fmt: skip


class Small(nn.Module):
    """[B, 3, R, R] → [B, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(images.mean((2, 3)))
        return logits


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(module_of=lambda *_: Small().eval(), TRACED={"B": 2}, ISLANDS={}, VERSIONS={"timm": "0"})
    monkeypatch.setattr(export, "exporter", lambda *_: made)


def test_a_file_says_what_it_is_and_its_weights_lie_beside_it(tmp_path: Path) -> None:
    export_graph("model", LOCK, tmp_path / "onnx/model.onnx", axes={"resolution": 32}, form="plain")
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["model.onnx", "model.onnx.data"]
    model = onnx.load(tmp_path / "onnx/model.onnx")  # reads the weights too
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["family"], facts["part"], facts["resolution"]) == ("classifier", "model", "32")
    assert (facts["checkpoint_digest"], facts["form"], facts["timm"]) == ("5" * 64, "plain", "0")
    assert "precision" not in facts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": {}}, "model needs resolution, but resolution is None"),
        ({"axes": {"resolution": 32}, "precision": "bf16"}, r"precision is 'bf16'\nHint: it is fp32 or fp16"),
    ],
)
def test_mistakes_are_told_before_anything_is_traced(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_graph("model", LOCK, tmp_path / "model.onnx", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_refused_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _: str) -> None:
        assert path.is_file()
        raise ExportError("it contains Loop")

    monkeypatch.setattr(export, "_trace", lambda *_: small())
    monkeypatch.setattr(export, "set_interface", lambda *_: None)
    monkeypatch.setattr(export, "check_file", refuse)
    with pytest.raises(ExportError, match="it contains Loop"):
        export_graph("model", LOCK, tmp_path / "model.onnx", axes={"resolution": 32})
    assert list(tmp_path.iterdir()) == []
