"""The module that is exported computes what timm does; seeded weights are fit for a gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sam3_runtime.core.errors import ExportError
from sam3_runtime.families.classifier.export import checkpoint, graph
from sam3_runtime.families.classifier.export.weights import load_model
from sam3_runtime.records.records import CheckpointLock

Photos = dict[str, np.ndarray]


def test_weights_are_the_folders(lock: CheckpointLock, folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    state = graph.module_of("model", lock, {"resolution": 96}, {}).state_dict()
    assert len(state) > 10
    assert all(torch.equal(value, stored[name]) for name, value in state.items())


def test_a_transformer_takes_another_size_and_a_mixer_says_which() -> None:
    lock = checkpoint.lock("test_vit")
    other = lock.dims["image_size"] + 32
    module = graph.module_of("model", lock, {"resolution": other}, {})
    assert module(torch.zeros(2, 3, other, other)).shape == (2, 1000)
    lock = checkpoint.lock("mixer_s32_224")
    with pytest.raises(ExportError, match=r"does not support images of 256 pixels.*\n.*use resolution: 224"):
        graph.module_of("model", lock, {"resolution": 256}, {})
    with pytest.raises(ExportError, match="no part 'decoder'"):
        graph.module_of("decoder", lock, {"resolution": 224}, {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_its_graph_computes_the_same(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    lock = checkpoint.lock(name)
    size = lock.dims["image_size"]
    module = graph.module_of("model", lock, {"resolution": size}, {})
    example = torch.zeros(graph.TRACED["B"], 3, size, size)
    batch = ({0: torch.export.Dim("B")},)
    path = tmp_path / "model.onnx"
    program = torch.onnx.export(module, (example,), dynamo=True, opset_version=18, dynamic_shapes=batch, verbose=False)
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    wanted = load_model(lock, size)(pixels).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.filterwarnings("ignore")
def test_facts_say_what_it_is(lock: CheckpointLock, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from sam3_runtime.graphs.export import export_graph

    export_graph("model", lock, tmp_path / "model.onnx", axes={"resolution": 96})
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["family"], facts["part"], facts["checkpoint_digest"]) == ("classifier", "model", lock.digest)
    assert facts["timm"].startswith("1.")
