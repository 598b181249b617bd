"""What is said about a TensorRT-RTX engine before anything of it is loaded."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_runtime.core.errors import CannotRunHere, EngineError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.core.gpus import Gpu
from sam3_runtime.deploy.loading import load
from sam3_runtime.engines.running import open_engine
from sam3_runtime.engines.running.tensorrt_rtx import check_engine, check_header
from sam3_runtime.plan import toolchain
from sam3_runtime.plan.toolchain import probe
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import EngineRecord, Sizes, Toolchain
from tests.conftest import ShowGpus
from tests.engine_records import engine_record
from tests.engines.running.fake_gpu import Card, FakeGpu
from tests.fake_variant import SMALL_DIMS, write_fake_variant

RTX_3090 = Gpu("NVIDIA GeForce RTX 3090", "8.6", "570.86", 24 << 30)
HERE = Path("engines/b8_q50_r672/decoder.engine")
# The first bytes of an engine that TensorRT-RTX 1.7.1.116 built, which is all that its check reads.
HEADER = bytes.fromhex(
    "76747274000000000200000000000000ac8d4600000000000107017476747274"
    "1800000000000000000000000000000000000000000000000080e71e00000000"
)


def record(**changes: object) -> EngineRecord:
    fields = {"backend": "tensorrt-rtx", "settings": {"gpus": ["8.9", "12.0"]}, "toolchain": probe("tensorrt-rtx")}
    return engine_record("decoder", **fields | changes)


@pytest.fixture
def no_driver(show_gpus: ShowGpus) -> None:
    del show_gpus


def engine_of(directory: Path, data: bytes) -> Path:
    """Put a TensorRT-RTX engine of these bytes, with a record that agrees, into a variant's directory."""
    write_fake_variant(directory)
    path = directory / "decoder.engine"
    path.write_bytes(data)
    made = EngineRecord.read(directory / "decoder.engine.json")
    changes = {
        "backend": "tensorrt-rtx", "toolchain": probe("tensorrt-rtx"), "settings": {"gpus": ["8.9"]},
        "sha256": sha256_of(path), "sizes": Sizes(file=len(data)),
    }  # fmt: skip
    made.model_copy(update=changes).write(directory / "decoder.engine.json")
    return path


@pytest.mark.usefixtures("no_driver")
def test_a_sound_engine_without_a_driver_is_to_be_taken_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine_of(tmp_path / "b4_q20_r112", HEADER + bytes(1000))
    with pytest.raises(
        CannotRunHere, match=r"can build .* but not run them: no NVIDIA driver.*\nHint: .*sam3-runtime pack"
    ):
        open_engine(tmp_path / "b4_q20_r112", "decoder")


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("data", [b"PK" * 100, HEADER[:20], b""], ids=["foreign", "cut off", "empty"])
def test_a_file_that_is_no_engine_is_told_before_the_driver_is_missed(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine_of(tmp_path / "b4_q20_r112", data)
    with pytest.raises(
        EngineError, match=r"no engine of TensorRT-RTX .*damaged\nHint: rebuild it: snakemake"
    ) as caught:
        open_engine(tmp_path / "b4_q20_r112", "decoder")
    assert not isinstance(caught.value, CannotRunHere)


def test_a_truncated_engine_is_told_by_its_record(tmp_path: Path) -> None:
    path = engine_of(tmp_path / "b4_q20_r112", HEADER + bytes(1000))
    path.write_bytes(HEADER)
    with pytest.raises(EngineError, match=r"is cut off: it has 64 bytes instead of 1064\nHint: rebuild it"):
        open_engine(tmp_path / "b4_q20_r112", "decoder")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_of(tmp_path / "b4_q20_r112", HEADER)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"not installed here.*\nHint: pip install 'sam3-runtime\[rtx\]'"):
        open_engine(tmp_path / "b4_q20_r112", "decoder")


def test_another_version_names_the_one_to_install() -> None:
    pytest.importorskip("tensorrt_rtx")
    other = record(toolchain=Toolchain(backend="tensorrt-rtx", version="1.5.0.1"))
    with pytest.raises(
        EngineError,
        match=r"built with TensorRT-RTX 1\.5\.0\.1.*\nHint: rebuild it: .*tensorrt-rtx-cu12==1\.5\.0\.1",
    ):
        check_engine(HERE, other)


@pytest.mark.parametrize(
    ("diagnosis", "expected"),
    [
        ("MALFORMED_ENGINE", r"is damaged\nHint: rebuild it"),
        ("VERSION_MISMATCH", r"another TensorRT-RTX than the one installed here\nHint: rebuild it"),
        ("UNSUPPORTED_CC", r"for Ada \(8\.9\) and Blackwell \(12\.0\), and the NVIDIA GeForce RTX 3090 is Ampere "
                           r"\(8\.6\)\nHint: .*add ampere to build.*snakemake engines/b8_q50_r672/decoder\.engine"),
        ("OLD_CUDA_DRIVER", r"newer NVIDIA driver than 570\.86"),
        ("INSUFFICIENT_GPU_MEMORY", r"than the NVIDIA GeForce RTX 3090 has \(24576 MiB\)\nHint: .*info"),
        ("CUDA_ERROR", r"CUDA failed on the NVIDIA GeForce RTX 3090"),
    ],
)  # fmt: skip
def test_each_diagnosis_is_one_message_and_a_command(diagnosis: str, expected: str) -> None:
    with pytest.raises(EngineError, match=expected):
        check_header(HERE, record(), {diagnosis}, RTX_3090)


def test_without_a_card_nothing_is_said_about_one() -> None:
    check_header(HERE, record(), {"CUDA_ERROR", "UNSUPPORTED_CC"}, None)
    check_header(HERE, record(), set(), RTX_3090)
    with pytest.raises(EngineError, match="is damaged"):
        check_header(HERE, record(), {"CUDA_ERROR", "UNSUPPORTED_CC", "MALFORMED_ENGINE"}, None)


# --- running, on a fake GPU -------------------------------------------------------------------------------------------

VERSION = "1.7.1.116"


@pytest.fixture
def variant(tmp_path: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A variant of TensorRT-RTX engines, and a fake TensorRT-RTX that runs them."""
    pytest.importorskip("tensorrt_rtx")
    from tests.engines.running.fake_runtime import make_rtx_module, write_gpu_variant

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", make_rtx_module(VERSION, gpu))
    monkeypatch.setattr(toolchain, "_version", lambda _: VERSION)
    folder = tmp_path / "engines/b4_q20_r112"
    write_gpu_variant(
        folder,
        Variant((4, 20, 112)),
        SMALL_DIMS,
        backend="tensorrt-rtx",
        version=VERSION,
        floats="float32",
        int64="int64",
    )
    return folder


def kernels_of(variant: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in variant.glob("*.kernels")}


def detect(variant: Path) -> list[Any]:
    with load(variant) as pipeline:
        return [one.boxes for one in pipeline.detect([np.full((20, 30, 3), 90, np.uint8)], ["cat"])[0]]


def test_compiled_kernels_are_kept_beside_the_engine(variant: Path) -> None:
    first = detect(variant)
    kept = kernels_of(variant)
    digest = sha256_of(variant / "decoder.engine")[:12]
    assert kept[f"decoder.engine.{digest}.sm90.kernels"] == b"kernels of Fake H200 for decoder"
    assert {name.split(".")[0] for name in kept} >= {"decoder", "vision-encoder", "text-encoder"}
    seen = sys.modules["tensorrt_rtx"]._seen
    assert sorted(seen.compiled) == ["decoder", "text-encoder", "vision-encoder"]
    before = {path: path.stat().st_mtime_ns for path in variant.glob("*.kernels")}
    assert np.array_equal(detect(variant), first)
    assert len(seen.compiled) == 3
    assert {path: path.stat().st_mtime_ns for path in variant.glob("*.kernels")} == before


def test_kernels_of_another_card_are_made_anew(variant: Path) -> None:
    detect(variant)
    name = next(name for name in kernels_of(variant) if name.startswith("decoder"))
    (variant / name).write_bytes(b"kernels of another card")
    detect(variant)
    assert kernels_of(variant)[name] == b"kernels of Fake H200 for decoder"


def test_it_is_the_card_that_is_opened_that_must_suit(variant: Path, gpu: FakeGpu) -> None:
    gpu.cards = [Card("Old card", "0000:19:00.0", (7, 0)), Card()._replace(bus="0000:3B:00.0")]
    with load(variant, gpu=1) as pipeline:
        assert pipeline.device.name == "Fake H200"
    with pytest.raises(EngineError, match=r"was compiled for .*, and the Old card is 7\.0"):
        load(variant, gpu=0)


def test_kernels_lie_where_a_link_leads(variant: Path, tmp_path: Path) -> None:
    store = tmp_path / "store/decoder_q20.engine"
    store.parent.mkdir()
    (variant / "decoder.engine").rename(store)
    try:
        (variant / "decoder.engine").symlink_to(store)
    except OSError:
        pytest.skip("no symbolic links here")
    detect(variant)
    assert [path.name.split(".")[0] for path in store.parent.glob("*.kernels")] == ["decoder_q20"]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    variant: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(f"read-only: {path} ({len(content)})")

    monkeypatch.setattr("sam3_runtime.engines.running.tensorrt_rtx.write_atomically", refuse)
    with caplog.at_level(logging.WARNING):
        detect(variant)
    assert "compiled kernels were not stored: read-only" in caplog.text
    assert kernels_of(variant) == {}


def test_every_context_works_in_the_shared_scratch(variant: Path, gpu: FakeGpu) -> None:
    detect(variant)
    seen = sys.modules["tensorrt_rtx"]._seen
    assert len(set(seen.scratch.values())) == 1
    assert json.loads((variant / "decoder.engine").read_text())["part"] == "decoder"
    assert gpu.used == 0
