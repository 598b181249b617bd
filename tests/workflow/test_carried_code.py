"""Code that was moved: folders of the last version need no rebuild, as it writes the same bytes."""

from __future__ import annotations

from importlib import metadata

import pytest

from sam3_runtime.core.files import sha256_of
from sam3_runtime.plan.carried_code import CARRIED
from sam3_runtime.plan.code_digest import code_digest
from tests.carry import BEFORE, SCRIPTS, carried, jobs, now
from tests.workflow.conftest import WorkFolder

VERSIONS = {"torch": "2.14.1", "onnx": "1.23.2", "onnxscript": "0.7.2", "onnxruntime": "1.32.0"}
"""What :data:`BYTES` were written with, at 2b0f8d3."""
BYTES = {
    "onnx/text-encoder.onnx": "d3d8fec905365828c7c9c9d67be6600f13dc54074a34209759fe8aced1767b0d",
    "onnx/text-encoder.onnx.data": "396f3d06f3e46c3b43198ae2d18da5757c36a39b3f2d48a066e46733a515e424",
    "onnx/r224/vision-encoder.onnx": "c45f2b3565260cc0841d0371fa5f22805392f5d828124adbdc8bb5ad675eb880",
    "onnx/r224/vision-encoder.onnx.data": "3b6fb6579bc0675860e16ee420be71cb2d14fbd9b8c8d5e36704db78ac2a08a2",
    "onnx/r224/geometry-encoder.onnx": "fc0c085a4ea88ef815c25fe5559315ab2df945d4ff7bd8b4f123937a63074d06",
    "onnx/r224/decoder_q50.onnx": "f9f2f5836cb3afabe0b1994495c89c0efde9e43d0df403dd986ac84aedd924be",
    "engines/store/b2/text-encoder.engine": "46cc1737ca28d929dad41b0b0a867766e6dfe939c13bad236b10fe365515bad5",
    "engines/store/b2_r224/vision-encoder.engine": "60160dad1c9ad630abbbc8ea0ba3aa9c58c386f4a88e28bffecc934b20631b47",
    "engines/store/b2_r224/geometry-encoder.engine": "74f2bff8684025f34df67efd62bb5b98caf5f11901429d61c63574c10c6a3b76",
    "engines/store/b2_r224/decoder_q50.engine": "bd027c3f56dfe10dd497d631032184cdf90f733b7d55f457acf6888221d5c501",
}
ROUNDED = ("onnx/r224/decoder_q50.onnx", "engines/store/b2_r224/decoder_q50.engine")
"""Files with constants that PyTorch computes: CPUs with other vector units round some of them otherwise."""


def test_the_table_is_the_one_of_this_code() -> None:
    assert carried() == CARRIED


def test_each_kind_has_the_digest_of_before() -> None:
    found = {kind: code_digest(SCRIPTS / f"{script}.py", *code) for kind, (script, code) in jobs().items()}
    assert {kind: found[kind] for kind in BEFORE} == BEFORE
    assert len(set(now().values())) == len(jobs()), "kinds of one digest could not be told apart"


@pytest.mark.parametrize("name", BYTES)
def test_the_same_bytes_as_before(built_once: WorkFolder, name: str) -> None:
    here = {library: metadata.version(library) for library in VERSIONS}
    if here != VERSIONS:
        pytest.skip(f"the bytes are those of {VERSIONS}, and here are {here}")
    if name in ROUNDED:
        import torch

        if (capability := torch.backends.cpu.get_cpu_capability()) != "AVX512":
            pytest.skip(f"rounded as CPUs with AVX512 do; this one has {capability}")
    assert sha256_of(built_once.path / name) == BYTES[name]
