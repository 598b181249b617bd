"""8-bit products on x86 CPUs with VNNI and without: exact on both, or refused.

Those without are emulated by QEMU (Debian: qemu-user), whichever CPU this is.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx.checker")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sam3_runtime.core.errors import EngineError
from sam3_runtime.core.files import sha256_of
from sam3_runtime.engines.building.onnxruntime import build
from sam3_runtime.engines.running import open_engine
from sam3_runtime.engines.running.onnxruntime import _PRODUCT, saturates
from sam3_runtime.plan.toolchain import _cpu_info, eight_bit_products
from sam3_runtime.plan.variants import Variant
from sam3_runtime.records.records import Sizes, TensorRecord, Toolchain
from tests.engine_records import ort_task
from tests.fake_variant import fake_record

SIZE = 64
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="about x86-64 CPUs")
# Run by QEMU; prints what the products are of, or why they are not.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from sam3_runtime.engines.running import open_engine
from sam3_runtime.engines.running.onnxruntime import saturates
from sam3_runtime.core.errors import EngineError
print(saturates())
for folder in sys.argv[1:]:
    try:
        with open_engine(Path(folder), "vision-encoder") as engine:
            images, wanted = (np.load(Path(folder, f"{name}.npy")) for name in ("images", "wanted"))
            print(float(np.abs(engine.infer({"images": images})["products"] - wanted).max()))
    except EngineError as error:
        print(error.message)
"""


def quantised_product() -> tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A graph of one product in Q/DQ form with large operands, what goes in, and what comes out in float."""
    generator = np.random.default_rng(0)
    weight = generator.uniform(64, 127, (SIZE, SIZE)).round().astype(np.float32)
    images = generator.uniform(64, 127, (1, SIZE)).round().astype(np.float32)
    zero, one = numpy_helper.from_array(np.int8(0), "zero"), numpy_helper.from_array(np.float32(1), "one")
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["dq"]),
        helper.make_node("QuantizeLinear", ["weight", "one", "zero"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "one", "zero"], ["wdq"]),
        helper.make_node("MatMul", ["dq", "wdq"], ["products"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIZE]) for name in ("images", "products")]
    graph = helper.make_graph(
        nodes, "product", ends[:1], ends[1:], [zero, one, numpy_helper.from_array(weight, "weight")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, images, images @ weight


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An engine of the product in each pair of types, as a variant's folder has it."""
    folder = tmp_path_factory.mktemp("products")
    model, images, wanted = quantised_product()
    onnx.save(model, folder / "product.onnx")
    made = {}
    for products in ("u8s8", "u8u8"):
        made[products] = folder / products
        made[products].mkdir()
        path = made[products] / "vision-encoder.engine"
        settings = {"optimization": "extended", "products": products}
        built = build(ort_task(folder / "product.onnx", path, **settings))
        assert built.precision_got == {"float32": 0, "int8": 1}
        found = {
            "backend": "onnxruntime",
            "toolchain": Toolchain(backend="onnxruntime", version=onnxruntime.__version__),
            "settings": settings,
            "sha256": sha256_of(path),
            "sizes": Sizes(file=path.stat().st_size),
            "inputs": (TensorRecord(name="images", shape=(1, SIZE), dtype="float32"),),
            "outputs": (TensorRecord(name="products", shape=(1, SIZE), dtype="float32"),),
            "profile": {},
        }
        record = fake_record("vision-encoder", Variant((1, 20, 112))).model_copy(update=found)
        record.write(made[products] / "vision-encoder.engine.json")
        np.save(made[products] / "images.npy", images)
        np.save(made[products] / "wanted.npy", wanted)
    return made


def test_the_product_that_shows_it_is_what_it_says() -> None:
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    ends = [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 32])]
    ends.append(helper.make_tensor_value_info("c", TensorProto.INT32, [1, 1]))
    weight = numpy_helper.from_array(np.full((32, 1), 127, np.int8), "b")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert model.SerializeToString(deterministic=True) == _PRODUCT


@on_x86
def test_this_cpu_multiplies_exactly_in_the_types_that_it_builds_for(engines: dict[str, Path]) -> None:
    assert (eight_bit_products() == "u8u8") == saturates()
    with open_engine(engines[eight_bit_products()], "vision-encoder") as engine:
        images, wanted = (np.load(engines["u8u8"] / f"{name}.npy") for name in ("images", "wanted"))
        np.testing.assert_allclose(engine.infer({"images": images})["products"], wanted)


@on_x86
def test_without_vnni_one_is_exact_and_the_other_refused(engines: dict[str, Path]) -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("needs qemu-x86_64: apt install qemu-user")
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", PROGRAM, *map(str, engines.values())]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    saturated, refused, error = run.stdout.splitlines()
    assert saturated == "True"
    assert refused == (
        "the vision-encoder was built for CPUs with VNNI, which this one lacks: its 8-bit products would saturate"
    )
    assert float(error) == 0


def test_an_engine_for_cpus_with_vnni_names_the_command_elsewhere(
    engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam3_runtime.engines.running.onnxruntime.saturates", lambda: True)
    with pytest.raises(EngineError, match=r"rebuild it: snakemake engines/u8s8/vision-encoder\.engine"):
        open_engine(engines["u8s8"], "vision-encoder")


@pytest.mark.parametrize(
    ("machine", "flags", "products"),
    [
        ("x86_64", "fpu avx2 fma", "u8u8"),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", "u8s8"),
        ("x86_64", "fpu avx2 avx_vnni", "u8s8"),
        ("x86_64", None, "u8u8"),
        ("aarch64", None, "u8s8"),
    ],
)
def test_the_types_follow_from_what_the_cpu_says(
    machine: str, flags: str | None, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr("sam3_runtime.plan.toolchain._cpu_info", lambda field: flags if field == "flags" else None)
    assert eight_bit_products() == products


def test_what_linux_says_of_a_cpu_is_read_by_field() -> None:
    if Path("/proc/cpuinfo").is_file() and platform.machine() == "x86_64":
        assert "sse2" in str(_cpu_info("flags"))
    assert _cpu_info("no such field") is None
