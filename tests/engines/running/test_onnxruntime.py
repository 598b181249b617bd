from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.engines.running import EngineOptions, open_engine
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import Sizes, Toolchain
from tests.fake_variant import fake_record

VARIANT = Variant((2, 20, 112))


def write_engine(directory: Path, content: bytes, version: str = ort.__version__) -> Path:
    """A text encoder's engine of the given bytes, with a record to it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "text-encoder.engine"
    path.write_bytes(content)
    found = {
        "backend": "onnxruntime",
        "toolchain": Toolchain(backend="onnxruntime", version=version),
        "sha256": sha256_of(path),
        "sizes": Sizes(file=len(content)),
    }
    fake_record("text-encoder", VARIANT).model_copy(update=found).write(directory / "text-encoder.engine.json")
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A graph with a text encoder's tensors: every channel of a token is its id."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["attention_mask"], ["text_mask"], to=types.BOOL),
            helper.make_node("Cast", ["input_ids"], ["ids"], to=types.FLOAT),
            helper.make_node("Unsqueeze", ["ids", "axis"], ["column"]),
            helper.make_node("Mul", ["column", "ones"], ["text_features"]),
        ],
        "text",
        [helper.make_tensor_value_info(name, types.INT64, ["P", 32]) for name in ("input_ids", "attention_mask")],
        [
            helper.make_tensor_value_info("text_features", types.FLOAT, ["P", 32, 8]),
            helper.make_tensor_value_info("text_mask", types.BOOL, ["P", 32]),
        ],
        [
            onnx.numpy_helper.from_array(np.asarray([2]), "axis"),
            onnx.numpy_helper.from_array(np.ones((1, 1, 8), np.float32), "ones"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return write_engine(tmp_path / "b2_q20_r112", model.SerializeToString())


def feeds(prompts: int) -> dict[str, np.ndarray]:
    ids = np.arange(prompts * 32, dtype=np.int64).reshape(prompts, 32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_runs_also_from_several_threads(directory: Path) -> None:
    with open_engine(directory, "text-encoder", EngineOptions(threads=1)) as engine, ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(lambda _: engine.infer(feeds(2)), range(8)):
            assert outputs["text_features"].shape == (2, 32, 8)
            assert np.array_equal(outputs["text_features"][..., 3], feeds(2)["input_ids"])
            assert outputs["text_mask"].all()


def test_the_profile_is_enforced_though_the_graph_would_take_more(directory: Path) -> None:
    with (
        open_engine(directory, "text-encoder", variant=VARIANT) as engine,
        pytest.raises(EngineError, match="build b3_q20_r112"),
    ):
        engine.infer(feeds(3))


def test_a_closed_engine_says_so(directory: Path) -> None:
    engine = open_engine(directory, "text-encoder")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the text-encoder is closed"):
        engine.infer(feeds(1))


def test_another_series_of_onnx_runtime_is_refused(directory: Path) -> None:
    write_engine(directory, b"whatever", version="1.2.3")
    with pytest.raises(EngineError, match=r"was built with ONNX Runtime 1\.2\.3, and .* is installed here") as caught:
        open_engine(directory, "text-encoder")
    assert "snakemake engines/b2_q20_r112/text-encoder.engine" in str(caught.value)


def test_another_patch_release_is_taken(directory: Path) -> None:
    series = ort.__version__.rpartition(".")[0]
    content = (directory / "text-encoder.engine").read_bytes()
    with open_engine(write_engine(directory, content, version=f"{series}.99"), "text-encoder") as engine:
        assert engine.infer(feeds(1))["text_features"].shape == (1, 32, 8)


def test_what_is_no_graph_is_one_message(directory: Path) -> None:
    write_engine(directory, b"no graph at all")
    with pytest.raises(EngineError, match=r"does not open in ONNX Runtime: .*\nHint: rebuild it"):
        open_engine(directory, "text-encoder")


def test_an_unknown_provider_lists_those_there_are(directory: Path) -> None:
    with pytest.raises(EngineError, match=r"the execution provider 'Nothing'\nHint: it has .*CPUExecutionProvider"):
        open_engine(directory, "text-encoder", EngineOptions(providers=("Nothing",)))
