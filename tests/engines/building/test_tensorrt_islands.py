"""Layers that compute in float32: those of an island's nodes, and the parser's own between them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sam3_runtime.engines.building.tensorrt_islands import hold_islands, nodes_of

trt = SimpleNamespace(float32="float32", float16="float16")


class Layer:
    """A layer of TensorRT with one input and one output, named by numbers."""

    num_inputs = num_outputs = 1

    def __init__(self, name: str, source: int, to: int, kind: str = "ELEMENTWISE", dtype: str = "float16") -> None:
        self.name, self.type, self.precision, self.results = name, SimpleNamespace(name=kind), None, {}
        self._source, self._to = (
            SimpleNamespace(name=str(n), dtype=dtype, is_shape_tensor=False) for n in (source, to)
        )

    def get_input(self, _: int) -> Any:
        return self._source

    def get_output(self, _: int) -> Any:
        return self._to

    def set_output_type(self, index: int, dtype: str) -> None:
        self.results[index] = dtype


def test_the_nodes_layers_and_the_parsers_own_beside_them_are_held(capsys: pytest.CaptureFixture[str]) -> None:
    layers = [
        Layer("before", 0, 1), Layer("(Unnamed Layer* 4) [Shuffle]", 1, 2), Layer("div", 2, 3),
        Layer("ONNXTRT_Broadcast", 3, 4), Layer("ONNXTRT_Cast", 4, 5), Layer("after", 5, 6),
    ]  # fmt: skip
    assert hold_islands(trt, layers, {"div", "folded"}) == 4
    assert [layer.precision for layer in layers] == [None, *["float32"] * 4, None]
    assert layers[2].results == {0: "float32"}
    said = capsys.readouterr().out
    assert "float32 islands: 2 nodes, 4 layers computed in float32" in said
    assert "no layer of its own for folded" in said


@pytest.mark.parametrize(("kind", "dtype"), [("CONSTANT", "float16"), ("CAST", "float16"), ("ELEMENTWISE", "int32")])
def test_layers_that_compute_nothing_in_floating_point_keep_their_type(kind: str, dtype: str) -> None:
    layer = Layer("div", 0, 1, kind, dtype)
    assert hold_islands(trt, [layer], {"div"}) == 0
    assert (layer.precision, layer.results) == (None, {})


def test_a_layers_nodes_are_in_its_metadata_or_its_name() -> None:
    fused = SimpleNamespace(name="fused", metadata="[ONNX Layer: /a/Add][ONNX Layer: /a/Mul]")
    assert nodes_of(fused) == ["/a/Add", "/a/Mul"]
    assert nodes_of(SimpleNamespace(name="/a/Add")) == ["/a/Add"]
    assert nodes_of(SimpleNamespace(name="(Unnamed Layer* 1) [Constant]", metadata="")) == []
