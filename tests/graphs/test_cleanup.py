"""What a traced graph becomes that has reductions and flattens, as classifiers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from sam3_runtime.graphs.cleanup import check_file, tidy


class Pooled(nn.Module):
    """[B, 3, 8, 8] → [B, 2]."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim, self.flatten, self.fc = keepdim, nn.Flatten(1), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.flatten(x.mean((2, 3), keepdim=self.keepdim)))
        return out


@pytest.mark.parametrize("keepdim", [True, False])
def test_a_pooled_and_flattened_graph_is_of_opset_17_and_fixed_rank(keepdim: bool, tmp_path: Path) -> None:
    module = Pooled(keepdim).eval()
    dynamic = ({0: torch.export.Dim("B")},)
    program: Any = torch.onnx.export(
        module, (torch.zeros(2, 3, 8, 8),), dynamo=True, opset_version=18, optimize=False, verbose=False,
        dynamic_shapes=dynamic,
    )  # fmt: skip
    tidy(program.model, "pooled")
    path = tmp_path / "pooled.onnx"
    ir.save(program.model, path)
    check_file(path, "pooled")
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert "ReduceMean" in kinds
    assert not {"Shape", "Concat"} & set(kinds), "the shape is written down"
    constants = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}
    assert [constants[node.input[1]] for node in graph.node if node.op_type == "Reshape"] == [[0, 3]] * keepdim
    session = onnxruntime.InferenceSession(path)
    for images in (1, 5):
        pixels = np.random.default_rng(images).standard_normal((images, 3, 8, 8)).astype(np.float32)
        found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
        assert np.allclose(found, module(torch.from_numpy(pixels)).detach().numpy(), atol=1e-6)
